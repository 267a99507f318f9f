"""Load of `mcd serve` on this machine: what a request costs besides its row, and throughput and latency by number of
clients, next to the same rows in Python.

    mcd serve demo --port 8123 &
    python benchmarks/serve_load.py --url http://127.0.0.1:8123 --model demo --clients 1 8 32

Each request is one row of one of some seeds. Its text is compared with that of the same seed from `Model.request`, so
that an answer that is lost, or belongs to another seed, ends the run. Some clients leave before their answer. What a
request costs is the median difference to the row of its seed in Python, drawn right before it, since the speed of a
machine changes from minute to minute, and a processor that slept is slower than one that did not.
"""

import argparse
import json
import math
import os
import statistics
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mcd

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--url", default="http://127.0.0.1:8000")
parser.add_argument("--model", default="demo", help="MODEL, as the server was given it")
parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
parser.add_argument("--requests", type=int, default=64, help="of each number of clients")
parser.add_argument("--seeds", type=int, default=16, help="of the requests, one after the other")
parser.add_argument("--tokens", type=int, default=32)
parser.add_argument("--steps", type=int, default=8)
parser.add_argument("--leavers", type=int, default=4, help="requests whose client leaves at once")
parser.add_argument(
    "--pid", type=int, help="of the server, on Linux: its CPU time too, which other work hardly changes"
)
args = parser.parse_args()


def ask(seed: int, timeout: float | None = 600) -> tuple[str, float]:
    """The text of a seed, and how long it took."""
    body = {"model": args.model, "prompt": "", "max_tokens": args.tokens, "steps": args.steps, "seed": seed}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{args.url}/v1/completions", json.dumps(body).encode(), headers)
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        text = json.loads(answer.read())["choices"][0]["text"]
    return text, time.perf_counter() - started


def leave(seed: int) -> None:
    """Ask, and do not wait for the answer."""
    try:
        ask(seed, timeout=0.05)
    except OSError:
        return


def percentile(values: list[float], share: float) -> float:
    """The smallest value that is at least as large as that share of all."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def cpu_s() -> float:
    """The CPU time of the server so far."""
    if args.pid is None:
        return math.nan
    fields = Path(f"/proc/{args.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


model = mcd.load(args.model)
request = model.request(["", args.tokens, ""], steps=args.steps)


def alone(seed: int) -> tuple[str, float]:
    """The text of a seed in Python, and how long it took."""
    started = time.perf_counter()
    *_, last = model.states(request, 1, seed)
    end = model.writer.end_id
    row = last.ids[0].tolist()
    row = row[: row.index(end)] if end in row else row
    return model.tokenizer.decode(row), time.perf_counter() - started


ask(0)
expected: list[str] = []
times: list[float] = []
gaps: list[float] = []
one_used, served = 0.0, cpu_s()
for seed in range(args.seeds):
    used = time.process_time()
    text, seconds = alone(seed)
    one_used += (time.process_time() - used) / args.seeds
    answer, latency = ask(seed)
    assert answer == text, f"the answer {answer!r} is not of seed {seed}, {text!r}"
    expected.append(text)
    times.append(seconds)
    gaps.append(latency - seconds)
served = (cpu_s() - served) / args.seeds
started, used = time.perf_counter(), time.process_time()
for _ in model.states(request, args.requests, 0):
    pass
together = args.requests / (time.perf_counter() - started)
together_used = (time.process_time() - used) / args.requests
print(
    f"in Python: one row {1000 * statistics.median(times):.1f} ms (median), {1000 * one_used:.1f} ms of CPU; "
    f"{args.requests} rows together {together:.2f} rows/s, {1000 * together_used:.1f} ms of CPU a row"
)
more = "" if args.pid is None else f"; {1000 * served:.1f} ms of CPU"
print(f"the same row over HTTP, in turns: {1000 * statistics.median(gaps):+.2f} ms (median){more}", flush=True)
for clients in args.clients:
    leavers = [threading.Thread(target=leave, args=(10_000 + i,)) for i in range(args.leavers)]
    started, used = time.perf_counter(), cpu_s()
    with ThreadPoolExecutor(clients) as pool:
        for thread in leavers:
            thread.start()
        answers = list(pool.map(ask, (i % args.seeds for i in range(args.requests))))
    seconds, used = time.perf_counter() - started, cpu_s() - used
    wrong = [i for i, (text, _) in enumerate(answers) if text != expected[i % args.seeds]]
    assert not wrong, f"answers {wrong[:8]} are not of their seeds"
    latencies = [1000 * latency for _, latency in answers]
    shown = ", ".join(f"p{round(100 * share)} {percentile(latencies, share):.0f} ms" for share in (0.5, 0.9, 0.99))
    rate = args.requests / seconds
    more = "" if args.pid is None else f"; {1000 * used / args.requests:.1f} ms of CPU a row"
    print(f"{clients} clients: {rate:.2f} rows/s, {rate / together:.2f} of Python; {shown}{more}", flush=True)
    for thread in leavers:
        thread.join()
