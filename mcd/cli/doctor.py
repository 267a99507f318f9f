"""`mcd doctor`: what is installed, what the machine offers, whether training and sampling work, and how to fix it."""

import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mcd.cli.arguments import check_out, parse
from mcd.cli.doctor_checks import CHECKS, Finding, packages
from mcd.cli.self_test import SELF_TESTS
from mcd.options import Options


@dataclass(frozen=True)
class DoctorArgs(Options):
    """Report what is installed, what the machine offers, whether training and sampling work, and how to fix faults.

    The self-test trains the bundled teacher for a few steps, stops, resumes, compares bit by bit, and samples twice.
    This takes about 10 seconds and writes only into a temporary folder. The exit status is 1 when something that every
    command needs is broken; what is only missing or slow gives a warning.

    Examples:
      mcd doctor
      mcd doctor --json doctor.json
      mcd doctor --no-self-test
    """

    json: Path | None = None
    """File for the findings: name, status, value and mend (how to fix it) of each finding."""
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
    for finding in examine(args.self_test):
        findings.append(finding)
        print(f"  {finding.status:6} {finding.name:18} {finding.value}", flush=True)
        if finding.fix:
            print(f"  {'':25} {finding.fix}")
    seconds = time.monotonic() - started
    broken, warnings = (sum(finding.status == status for finding in findings) for status in ("broken", "warn"))
    print(f"{broken} broken, {warnings} warnings, in {seconds:.0f} s")
    if args.json is not None:
        from mcd.files import write_json
        from mcd.machine import machine

        args.json.parent.mkdir(parents=True, exist_ok=True)
        rows = [finding.as_dict() for finding in findings]
        write_json(args.json, {"machine": machine(), "seconds": round(seconds, 1), "findings": rows})
    return int(broken > 0)


def examine(self_test: bool) -> Iterator[Finding]:
    """All findings, one by one. Where a package that every command needs is missing, nothing else is examined."""
    needed = list(packages())
    yield from needed
    if any(finding.status == "broken" for finding in needed):
        return
    for check in (*CHECKS, *(SELF_TESTS if self_test else ())):
        try:
            yield from check()
        except Exception as error:  # a check that fails is itself a finding
            status = "broken" if check in SELF_TESTS else "warn"
            yield Finding(check.__name__, status, f"{type(error).__name__}: {error}"[:300], "please report this")
