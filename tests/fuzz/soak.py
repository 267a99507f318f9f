"""The long form of fuzzing: CPU-minutes shared by the targets, half of them guided by coverage where atheris is there.

python tests/fuzz/soak.py --minutes 10 --out results/bench/fuzz.json
"""

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGETS = "model tokenizer data run checkpoint samples metrics report template text file".split()
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--minutes", type=float, default=10.0)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path)
parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"))
args = parser.parse_args()

engines = ["hypothesis"] + ["atheris"] * (importlib.util.find_spec("atheris") is not None)
seconds = 60 * args.minutes / len(engines) / len(TARGETS)
rows, failed = [], False
for engine in engines:
    for target in TARGETS:
        options = ["--engine", engine, "--target", target, "--seconds", f"{seconds:.1f}", "--seed", str(args.seed)]
        command = [sys.executable, str(HERE / "run.py"), *options, "--keep", str(args.keep)]
        done = subprocess.run(command, capture_output=True, text=True)
        if not done.stdout.startswith("{"):
            sys.exit(f"{target} by {engine} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        result = json.loads(done.stdout)
        rows.append({"engine": engine, "target": target, "cpu_s": result["cpu_seconds"], **result["targets"][target]})
        failed |= bool(rows[-1]["findings"])
        print(f"{engine:11}{target:11}{rows[-1]['executions']:7} executions  {rows[-1]['findings'] or ''}", flush=True)
if args.out:
    command = f"python tests/fuzz/soak.py --minutes {args.minutes:g} --seed {args.seed}"
    args.out.write_text(json.dumps({"command": command, "rows": rows}, indent=2) + "\n")
print(
    f"{sum(row['executions'] for row in rows):,} executions in {sum(row['cpu_s'] for row in rows) / 60:.1f} CPU-minutes"
)
sys.exit(int(failed))
