"""Measure the speed and memory of `mcd prepare`, and check that a kill -9 in the middle changes no byte.

The text is made from the bundled corpus and from the Python files, notes and pages of the standard library and of
the installed packages, cut into pieces of some lines; each document has some pieces drawn at random. A byte-level
BPE of GPT-2's size is trained on a part of it. Then the text is prepared, and its first --kill-megabytes are
prepared twice: undisturbed, and killed by SIGKILL at a third and at two thirds of the shards' bytes and started
again. Text that is already in the folder is used unchanged.

    python benchmarks/prepare_gb.py --work runs/prepare_gb --megabytes 1000 --workers 2 --out results/bench/prepare.json
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PIECE_LINES = (3, 40)
POOL_MB = 80
TRAINING_MB = 30


def pool(rng: random.Random) -> list[str]:
    """Pieces of text from this machine, in random order."""
    from mcd.data.prepare.corpus import documents

    texts = list(documents("sotu"))
    folders = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    files = sorted(
        path for folder in folders for kind in ("*.py", "*.md", "*.rst", "*.txt") for path in folder.rglob(kind)
    )
    rng.shuffle(files)
    size = sum(map(len, texts))
    for path in files:
        if size >= POOL_MB * 1e6:
            break
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if len(text) < 500_000:  # no tables of data
            texts.append(text)
            size += len(text)
    pieces = []
    for text in texts:
        lines = text.splitlines(keepends=True)
        while lines:
            count = rng.randint(*PIECE_LINES)
            pieces.append("".join(lines[:count]))
            del lines[:count]
    rng.shuffle(pieces)
    return pieces


def made(rng: random.Random, pieces: list[str], bytes_in_all: int) -> Iterator[str]:
    """Documents of some 5,000 characters on average, log-normal, as on the web, up to this many bytes."""
    size = 0
    while size < bytes_in_all:
        target, text = rng.lognormvariate(8.0, 1.0), ""
        while len(text) < target:
            text += rng.choice(pieces)
        size += len(text.encode())
        yield text


@dataclass
class Run:
    """What a run of `mcd prepare` took: wall-clock and CPU time, peaks in bytes of main process and children."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_main: int = 0
    peak_children: int = 0


def peaks(pid: int, seen: dict[int, int]) -> None:
    """Keep up the greatest resident size of a process and of its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        for one in (pid, *map(int, children.read_text().split())):
            for line in Path(f"/proc/{one}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    seen[one] = max(seen.get(one, 0), 1024 * int(line.split()[1]))
    except OSError:
        return


def cpu_of_children() -> float:
    """CPU time of the processes that ended so far, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def written(out: Path) -> int:
    """Bytes of shards so far, finished or not."""
    size = 0
    for path in out.glob("*.bin*"):
        with suppress(FileNotFoundError):  # renamed, or removed
            size += path.stat().st_size
    return size


def prepare(command: list[str], out: Path, kill_at: int | None = None) -> Run:
    """Run the command, and kill it when the shards have this many bytes."""
    began, cpu, seen = time.perf_counter(), cpu_of_children(), {}
    process = subprocess.Popen(command)
    try:
        while process.poll() is None:
            peaks(process.pid, seen)
            if kill_at is not None and written(out) >= kill_at:
                process.send_signal(signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
    finally:
        process.kill()
    if process.returncode != (0 if kill_at is None else -signal.SIGKILL):
        raise SystemExit(f"{command}: status {process.returncode}")
    main = seen.pop(process.pid)
    return Run(time.perf_counter() - began, cpu_of_children() - cpu, main, sum(seen.values()))


def checksums(out: Path) -> dict[str, str]:
    """The SHA-256 of every file of a prepared folder."""
    found = {}
    for path in sorted(out.iterdir()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    found.pop("verified.json", None)  # which names inodes
    return found


def main() -> None:
    """The whole measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/prepare_gb"))
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--kill-megabytes", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    from mcd.data.tokenizer import train_bpe
    from mcd.machine import machine

    args.work.mkdir(parents=True, exist_ok=True)
    text, tokenizer = args.work / "text.jsonl", args.work / "tokenizer.json"
    if not tokenizer.exists():
        rng = random.Random(args.seed)
        pieces = pool(rng)
        with text.open("w", encoding="utf-8") as file:
            for document in made(rng, pieces, args.megabytes * 1_000_000):
                file.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
        train_bpe(made(random.Random(1), pieces, TRAINING_MB * 1_000_000), 50_257).save(str(tokenizer))
    with text.open("rb") as file:
        documents = sum(1 for _ in file)
    print(f"{documents:,} documents, {text.stat().st_size / 1e6:.0f} MB; a BPE of 50,257 tokens", flush=True)
    options = f"--tokenizer {tokenizer} --length 1024 --wrap --group-documents 1000 --workers {args.workers}"
    options += f" --valid-last {documents // 80}"

    def command(out: Path, text: Path = text) -> list[str]:
        return [sys.executable, "-m", "mcd", "prepare", "--data", str(text), *options.split(), "--out", str(out)]

    whole, undisturbed, killed = (args.work / name for name in ("whole", "undisturbed", "killed"))
    for out in (whole, undisturbed, killed):
        shutil.rmtree(out, ignore_errors=True)
    run = prepare(command(whole), whole)
    sizes = {path.name: path.stat().st_size for path in sorted(whole.glob("*.bin"))}
    shards = sum(sizes.values())
    part = args.work / "part.jsonl"
    with text.open("rb") as source, part.open("wb") as target:
        for line in source:
            if target.tell() >= args.kill_megabytes * 1_000_000:
                break
            target.write(line)
    prepare(command(undisturbed, part), undisturbed)
    ends = [written(undisturbed) * third // 3 for third in (1, 2)]
    runs = [prepare(command(killed, part), killed, kill_at=end) for end in ends]
    runs.append(prepare(command(killed, part), killed))
    row: dict[str, Any] = {
        "documents": documents,
        "text_bytes": text.stat().st_size,
        "workers": args.workers,
        "seconds": run.seconds,
        "megabytes_per_s": text.stat().st_size / 1e6 / run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "megabytes_per_cpu_s": text.stat().st_size / 1e6 / run.cpu_seconds,
        "tokens_per_s": shards / 2 / run.seconds,
        "peak_bytes_main": run.peak_main,
        "peak_bytes_children": run.peak_children,
        "shards": sizes,
        "killed_text_bytes": part.stat().st_size,
        "killed_seconds": [one.seconds for one in runs],
        "killed_equal": checksums(undisturbed) == checksums(killed),
    }
    print(json.dumps(row, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        shown = "python " + " ".join(["benchmarks/prepare_gb.py", *sys.argv[1:]])
        note = "the machine was shared with other work"
        args.out.write_text(
            json.dumps({"command": shown, "note": note, "machine": machine(), "rows": [row]}, indent=1) + "\n"
        )
    if not row["killed_equal"]:
        raise SystemExit("the bytes differ")


if __name__ == "__main__":
    main()
