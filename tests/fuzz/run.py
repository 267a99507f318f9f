"""Damage files and read them, in a process of its own: little memory, no run-time check of annotations.

python tests/fuzz/run.py --seconds 5 --seed 0 [--target NAME ...] [--engine hypothesis|atheris] [--keep DIR]
python tests/fuzz/run.py --replay tests/fuzz/cases

Prints one JSON object: executions and findings a target, CPU seconds. Exit status 1 when there is a finding. A finding
is any exception that is none of the domain's (tests/fuzz/targets.py), a case that takes longer than ten seconds, and
one whose pickle ran. Memory beyond MEMORY is a MemoryError, and so a finding. --keep stores what was found as folders.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import types
import warnings
from pathlib import Path
from tempfile import mkdtemp

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
MEMORY = 1 << 30
"""Bytes of address space beyond what the process has when it begins."""
LONGEST = 10.0
"""Seconds of one case."""


class TooSlow(BaseException):
    """A case that took longer than LONGEST."""


def too_slow(signum, frame):
    """What the alarm of a case does."""
    raise TooSlow(f"longer than {LONGEST} s")


class Fuzzer:
    """Runs cases of one target in a folder of its own and collects what went wrong, once a kind of fault."""

    def __init__(self, name, keep):
        from tests.fuzz.targets import TARGETS

        self.name, self.target, self.keep = name, TARGETS[name], keep
        self.seeds = self.target.seeds()
        self.executions, self.findings = 0, {}
        self.folder = Path(mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))

    def run(self, case):
        from tests.fuzz.targets import FAULTS, write_case

        shutil.rmtree(self.folder, ignore_errors=True)
        work = self.folder / "case"
        work.mkdir(parents=True)
        os.chdir(self.folder)
        write_case(case, work)
        self.executions += 1
        fault = None
        signal.setitimer(signal.ITIMER_REAL, LONGEST)
        try:
            self.target.read(work)
        except FAULTS:
            pass
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # also what Rust calls a panic, which is no Exception
            where = [f for f in traceback.extract_tb(error.__traceback__) if "/mcd/" in f.filename]
            place = f"{Path(where[-1].filename).name}:{where[-1].lineno}" if where else "?"
            fault = f"{type(error).__name__} at {place}: {error!s:.200}"
            key = f"{type(error).__name__} at {place}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if any(self.folder.rglob("executed")):
            key = fault = "a pickle was executed"
        if fault is not None and key not in self.findings:
            self.findings[key] = fault
            if self.keep is not None:
                digest = hashlib.sha256(repr(sorted(case.items())).encode()).hexdigest()[:8]
                write_case(case, self.keep / self.name / digest)

    def close(self):
        os.chdir(ROOT)
        shutil.rmtree(self.folder, ignore_errors=True)


def by_hypothesis(fuzzer, seconds, seed):
    """Examples of hypothesis until the time is over (CPU seconds)."""
    import hypothesis
    from hypothesis import strategies as st

    from tests.fuzz.mutations import mutate

    ends = time.process_time() + seconds
    batch = 0
    while time.process_time() < ends:

        @hypothesis.seed(seed + 1_000_003 * batch)
        @hypothesis.settings(
            max_examples=20, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
        )
        @hypothesis.given(st.data())
        def examples(data):
            case = fuzzer.seeds[data.draw(st.integers(0, len(fuzzer.seeds) - 1))]
            fuzzer.run(mutate(case, lambda low, high: data.draw(st.integers(low, high))))

        examples()
        batch += 1


def by_atheris(fuzzer, seconds, seed):
    """Inputs that atheris finds by coverage of our readers. It ends the process, so it is one target a process."""
    import atheris

    from tests.fuzz.mutations import mutate

    for name in [name for name in sys.modules if name.startswith("mcd.")]:
        for function in vars(sys.modules[name]).values():
            if isinstance(function, types.FunctionType) and function.__module__ == name:
                atheris.instrument_func(function)
    ends = time.process_time() + seconds

    def one(data):
        provider = atheris.FuzzedDataProvider(data)
        choose = provider.ConsumeIntInRange
        case = fuzzer.seeds[choose(0, len(fuzzer.seeds) - 1)]
        fuzzer.run(mutate(case, choose))
        if time.process_time() > ends:
            fuzzer.close()
            report([fuzzer], seconds)

    atheris.Setup(
        [sys.argv[0], f"-seed={seed + 1}", "-max_len=256", "-len_control=0", "-rss_limit_mb=0", "-timeout=60"], one
    )
    atheris.Fuzz()


def report(fuzzers, seconds):
    """Print what was done and end the process."""
    found = {f.name: {"executions": f.executions, "findings": sorted(f.findings.values())} for f in fuzzers}
    print(json.dumps({"cpu_seconds": round(time.process_time(), 1), "targets": found}, indent=2), flush=True)
    os._exit(int(any(f.findings for f in fuzzers)))  # atheris would end otherwise


def limit_memory():
    """Let the address space grow by MEMORY at most."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0, help="CPU seconds, shared by the targets")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--target", nargs="*")
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--replay", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of numpy and torch about odd numbers; an exception is what counts
    if args.engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["mcd"]):
            pass
    import torch

    from tests.fuzz.targets import TARGETS, case_of

    signal.signal(signal.SIGALRM, too_slow)
    torch.set_num_threads(1)
    keep = args.keep.resolve() if args.keep else None
    replay = args.replay.resolve() if args.replay else None
    names = sorted(path.name for path in replay.iterdir()) if replay else args.target or list(TARGETS)
    fuzzers = [Fuzzer(name, keep) for name in names]
    for fuzzer in fuzzers:
        for seed in fuzzer.seeds:
            fuzzer.run(seed)  # and what a reader imports is imported
    if Path("/proc/self/statm").exists():
        limit_memory()
    for fuzzer in fuzzers:
        if replay:
            for path in sorted((replay / fuzzer.name).iterdir()):
                fuzzer.run(case_of(path))
        elif args.engine == "atheris":
            by_atheris(fuzzer, args.seconds, args.seed)
        else:
            by_hypothesis(fuzzer, args.seconds / len(fuzzers), args.seed)
        fuzzer.close()
    report(fuzzers, args.seconds)


if __name__ == "__main__":
    main()
