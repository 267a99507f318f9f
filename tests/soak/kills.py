"""kill -9 at random moments of `mcd distill` and `mcd prepare`: the same command again must end with the same bits.

    python tests/soak/kills.py --runs 36 --out results/bench/kills.json     # the long form (make soak)
    python tests/soak/kills.py --short                                      # one run killed five times, one preparation

A run is a command in a process of its own, forked from this one, which has imported what the commands import (so that
a start takes no seconds). It is killed once or more, each time when what is on disk says that the
phase aimed at has begun, and a random moment later; then it is started again until it ends. What it leaves (both weight
sets, those of each round, stats.jsonl without times, shards, manifest, tokenizer) must equal an undisturbed run's. The
phase of a kill is what the files say afterwards, so an aimed kill that came late is counted where it fell. Prints one
JSON object; exit status 1 when a run ended otherwise, or (long form) a phase was hit fewer than LEAST times.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # before torch is imported
for module in ("mcd.cli.training", "mcd.cli.distill", "mcd.cli.prepare", "mcd.cli.data_option", "mcd.cli.errors"):
    importlib.import_module(module)
from mcd.cli.main import main as main_of_mcd  # noqa: E402

LEAST = 3
DISTILL = ("preparation", "steps", "checkpoint", "round", "end")
"""Phases of `mcd distill` that are aimed at; "start" (imports, loading a checkpoint) is hit now and then too."""
PREPARE = ("tokenizer", "shards")
ROUNDS, STEPS = 3, 5
TRAIN = "--batch-size 2 --length 32 --lr 1e-3 --log-every 1 --checkpoint-every 3 --threads 1 --recipe cpu".split()


LATE = {"steps": 0.3, "tokenizer": 0.8}
"""Most seconds between the begin of a phase and the kill; 0.05 for the others, which are short."""


class Child:
    """`mcd ARGV` in a process of its own."""

    def __init__(self, argv, log):
        self.pid, self.ended = os.fork(), None
        if self.pid == 0:
            status = 70
            try:
                said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(said, 1)
                os.dup2(said, 2)
                status = main_of_mcd(argv)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)

    def status(self, options=os.WNOHANG):
        """The exit status, minus the signal's number; None while it runs."""
        if self.ended is None:
            pid, status = os.waitpid(self.pid, options)
            self.ended = os.waitstatus_to_exitcode(status) if pid else None
        return self.ended

    def wait(self):
        return self.status(0)

    def kill(self):
        if self.status() is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()


class Work:
    """One command in a folder of its own, and what the files there say about where it is."""

    def __init__(self, kind, folder, text):
        self.kind, self.folder, self.out, self.data = kind, folder, folder / "out", folder / "data"
        if kind == "distill":
            budget = ["--rounds", str(ROUNDS), "--steps-per-round", str(STEPS)]
            options = ["mcd", "--teacher", "demo", "--data", str(text), "--out", str(self.out), *TRAIN, *budget]
        else:
            options = ["--data", str(text), "--vocab-size", "700", "--length", "32", "--out", str(self.out)]
        self.argv = [kind, *options]

    def start(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.started = time.time()
        return Child(self.argv, self.folder / "log")

    def new(self, *paths):
        """Is one of these there, and written since the process began?"""
        for path in paths:
            try:
                if path.stat().st_mtime > self.started - 0.02:
                    return True
            except FileNotFoundError:
                pass
        return False

    def phase(self):
        """Where the process is, by what it has written; "start" before it has written anything."""
        if self.kind == "prepare":
            if (self.out / "manifest.json").is_file():
                return "done"
            return "shards" if self.new(*self.out.glob("*")) else "tokenizer"
        if not list(self.data.glob("*/manifest.json")):
            return "preparation" if self.new(*self.data.glob("*/*")) else "start"
        if self.new(*self.out.glob("checkpoints/partial-*")):
            return "checkpoint"
        for folder in (*self.out.glob("rounds/*"), self.out):
            if self.new(*folder.glob("*.safetensors.partial")) or (
                self.new(folder / "model.raw.safetensors") and not self.new(folder / "model.safetensors")
            ):
                return "end" if folder == self.out else "round"
        return "steps" if self.new(self.out / "stats.jsonl") else "start"

    def outcome(self):
        """Everything that must not depend on interruptions."""
        names = [*self.out.glob("*.safetensors"), *self.out.glob("rounds/*/*.safetensors")]
        names += [*self.data.glob("*/*")] if self.kind == "distill" else [*self.out.glob("*")]
        found = {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in names if path.is_file()}
        if (self.out / "stats.jsonl").is_file():
            rows = map(json.loads, (self.out / "stats.jsonl").read_text().splitlines())
            found["stats"] = [{k: v for k, v in row.items() if k != "elapsed_s"} for row in rows]
        return found

    def killed_at(self, aim, rng):
        """Start it, kill it in that phase or soon after; what was hit, or None when it ended before."""
        process = self.start()
        steps, longest = rng.randrange(1, 4), LATE.get(aim, 0.05)
        while process.status() is None:
            if self.phase() == aim and (aim != "steps" or self._logged_since() >= steps):
                time.sleep(rng.choice((0.0, rng.uniform(0, 0.01), rng.uniform(0, longest))))
                break
            time.sleep(0.0005)
        if process.kill() != -signal.SIGKILL:
            return None
        hit = self.phase()
        return {"aimed_at": aim, "phase": hit, "after_s": round(time.time() - self.started, 2)}

    def _logged_since(self):
        try:
            return (
                len((self.out / "stats.jsonl").read_bytes().splitlines()) if self.new(self.out / "stats.jsonl") else 0
            )
        except FileNotFoundError:
            return 0

    def finish(self):
        """Run it to its end."""
        status = self.start().wait()
        if status:
            raise SystemExit(
                f"mcd {' '.join(self.argv)} ended with {status}:\n{(self.folder / 'log').read_text()[-2000:]}"
            )


def text_file(folder):
    """Half a megabyte of documents out of 2000 words of random letters."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlucm", k=rng.randrange(2, 9))) for _ in range(2000)]
    lines = (" ".join(rng.choices(words, k=60)) + "." for _ in range(1200))
    (folder / "text.txt").write_text("\n\n".join(lines), encoding="utf-8")
    return folder / "text.txt"


def disturbed(kind, folder, text, aims, rng, expected):
    """One run that is killed in each of these phases in turn, then finished; its record."""
    work = Work(kind, folder, text)
    kills = [hit for aim in aims if (hit := work.killed_at(aim, rng)) is not None]
    work.finish()
    found = work.outcome()
    other = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    shutil.rmtree(folder)
    return {"command": kind, "kills": kills, "identical": not other, "other": other}


def plans(runs, short, rng):
    """(command, phases aimed at) of each run."""
    if short:
        return [("distill", ("preparation", "checkpoint", "round", "steps", "end")), ("prepare", ("shards",))]
    made = []
    for i in range(runs):
        if i % 4 == 3:
            made.append(("prepare", (PREPARE[i // 4 % 2],) * rng.randrange(1, 3)))
        else:
            first = DISTILL[i % len(DISTILL)]
            made.append(("distill", (first, *rng.choices(DISTILL[1:], k=rng.randrange(0, 2)))))
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=36)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    records, counts = [], Counter()
    with TemporaryDirectory(prefix="mcd-kills-") as name:
        folder = Path(name)
        text, expected = text_file(folder), {}
        for kind in ("distill", "prepare"):
            work = Work(kind, folder / "run", text)  # the same folder for all: it stands in run.json
            work.finish()
            expected[kind] = work.outcome()
            shutil.rmtree(folder / "run")
        for kind, aims in plans(args.runs, args.short, rng):
            record = disturbed(kind, folder / "run", text, aims, rng, expected[kind])
            records.append(record)
            counts.update(f"{kind}: {kill['phase']}" for kill in record["kills"])
            print(f"{len(records):3} {json.dumps(record)}", file=sys.stderr, flush=True)
    wanted = [f"distill: {phase}" for phase in DISTILL] + [f"prepare: {phase}" for phase in PREPARE]
    result = {
        "command": f"python tests/soak/kills.py --runs {args.runs} --seed {args.seed}" + " --short" * args.short,
        "runs": len(records),
        "kills": sum(counts.values()),
        "identical": sum(record["identical"] for record in records),
        "phases": dict(sorted(counts.items())),
        "records": records,
    }
    if args.out:
        from mcd.machine import machine

        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"machine": machine()} | result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    short_of = [] if args.short else [phase for phase in wanted if counts[phase] < LEAST]
    sys.exit(int(result["identical"] < len(records) or bool(short_of)))


if __name__ == "__main__":
    main()
