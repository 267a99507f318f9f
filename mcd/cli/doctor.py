"""`mcd doctor`: what is installed, what the machine gives, whether training and sampling work, and the mends."""

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mcd.cli.arguments import check_out, parse

Status = Literal["ok", "warn", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: what was looked at, how it stands, and what to do about it (when there is something).

    broken: something that every command needs does not work. warn: something works slower, less safely, or not at all
    that not everybody needs.
    """

    name: str
    status: Status
    value: str
    mend: str = ""


@dataclass(frozen=True)
class DoctorArgs:
    """Say what is installed, what the machine gives, and whether training and sampling work here, each with its mend.

    The self-test trains the bundled teacher for a few steps, stops, resumes and compares bit by bit, and samples twice
    (about 10 seconds; writes into a temporary folder only). Exit status 1 when something that every command needs is
    broken; what is only missing or slow is a warning.

    Examples:
      mcd doctor
      mcd doctor --json doctor.json
      mcd doctor --no-self-test
    """

    json: Path | None = None
    """File for the findings: name, status, value and mend of each."""
    self_test: bool = True
    """Train and sample for some seconds."""


def main(argv: list[str]) -> int:
    args = parse(DoctorArgs, argv, "doctor")
    if args.json is not None:
        check_out(args.json, option="--json")
    import mcd

    started = time.monotonic()
    print(f"mcd {mcd.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    findings = []
    for finding in examined(args.self_test):
        findings.append(finding)
        print(f"  {finding.status:6} {finding.name:18} {finding.value}", flush=True)
        if finding.mend:
            print(f"  {'':25} {finding.mend}")
    counts = {status: sum(f.status == status for f in findings) for status in ("broken", "warn")}
    print(f"{counts['broken']} broken, {counts['warn']} to think about, in {time.monotonic() - started:.0f} s")
    if args.json is not None:
        _write(args.json, findings, time.monotonic() - started)
    return int(counts["broken"] > 0)


def examined(self_test: bool) -> Iterator[Finding]:
    """All findings, as they come. Without what every command needs the rest is left out."""
    from mcd.cli.doctor_checks import CHECKS, packages

    needed = list(packages())
    yield from needed
    if any(finding.status == "broken" for finding in needed):
        return
    checks: list[Callable[[], Iterator[Finding]]] = list(CHECKS)
    if self_test:
        from mcd.cli.self_test import sampling, training

        checks += [sampling, training]
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # a doctor does not fall ill: what a check dies of is its finding
            status: Status = "broken" if check.__module__.endswith("self_test") else "warn"
            yield Finding(check.__name__, status, f"{type(error).__name__}: {error}"[:300], "please report this")


def _write(path: Path, findings: list[Finding], seconds: float) -> None:
    from mcd.bench.machine import machine
    from mcd.files import write_json

    value: dict[str, Any] = {"machine": machine(), "seconds": round(seconds, 1)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value | {"findings": [asdict(finding) for finding in findings]})
