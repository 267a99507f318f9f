"""Does another version of mcd compute the same? Digests of what one version trains, samples, measures and exports.

    PYTHONPATH=OLD python benchmarks/same_bits.py --out runs/old
    PYTHONPATH=NEW python benchmarks/same_bits.py --out runs/new
    diff runs/old/digests.json runs/new/digests.json

Everything is tiny and runs on one thread; a version takes about three minutes. Bits are equal only on one processor.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TRAINED = ("--data", "data", "--length", "32", "--batch-size", "4", "--hidden", "32", "--layers", "2", "--heads", "2")
UNIFORM = ("--method", "duo", "--cond-dim", "16")
TEACHERS = {
    "masked": (),
    "muon": ("--dropout", "0.1", "--accumulate", "2", "--optimizer", "muon"),
    "uniform": UNIFORM,
    "curriculum": (*UNIFORM, "--curriculum", "0.5"),
    "causal": ("--method", "ar"),
}
STUDENTS = {
    "mcd": ("mcd", "masked"),
    "tau-only": ("mcd", "masked", "--delta0", "0"),
    "sdtt": ("sdtt", "masked"),
    "cd4lm": ("cd4lm", "masked"),
    "duo-dcd": ("duo-dcd", "uniform"),
    "parts": ("mcd", "masked", "--accumulate", "2", "--checkpoint-activations"),
    "moving-teacher": ("sdtt", "masked", "--teacher-ema", "0.9"),
}
MASKED_SAMPLERS = {
    **{f"order-{name}": ("--order", name) for name in ("iid", "stratified", "low-discrepancy", "blockwise")},
    **{
        f"score-{name}": ("--sampler", "confidence", "--score", name) for name in ("top", "margin", "entropy", "random")
    },
    "cooled": ("--temperature", "0.8", "--top-p", "0.9"),
    "blocks": ("--sampler", "confidence", "--block", "8", "--greedy"),
    "cad": ("--sampler", "cad", "--threshold", "0.3"),
    "remdm-cap": ("--sampler", "remdm"),
    "remdm-rescale": ("--sampler", "remdm", "--remasking", "rescale"),
    "entropy-bounded": ("--sampler", "entropy-bounded", "--gamma", "4"),
    "klass": ("--sampler", "klass", "--threshold", "0.3", "--history", "1"),
    "race": ("--sampler", "gumbel-race"),
    "race-fp32": ("--sampler", "gumbel-race", "--precision", "fp32"),
}
OTHER_SAMPLES = {
    "template": ("demo", "--template", "The [MASK:3] of the United [MASK] and [MASK:8] peace."),
    "uniform": ("uniform",),
    "corrected": ("uniform", "--tail", "greedy", "--kappa", "0.5"),
    "causal": ("causal",),
    "student": ("mcd",),
}
MEASURED = {
    "samples": ("masked", "--steps", "4", "8", "--num", "8", "--scorer", "none"),
    "likelihood": ("masked", "--likelihood", "data"),
    "reference": ("masked", "--steps", "4", "--num", "8", "--reference", "data"),
    "language": ("hmm-model", "--steps", "4", "--num", "16"),
}
FIGURES = ("gen_ppl", "entropy", "nfe", "nll", "tv_bigram", "valid_nelbo", "distinct_2", "self_bleu", "energy", "mauve")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the runs and digests.json")
    out = parser.parse_args().out
    out.mkdir(parents=True)
    found = digests(out)
    (out / "digests.json").write_text(json.dumps(found, indent=1, sort_keys=True))
    print(f"{out / 'digests.json'}: {len(found)} digests and figures")
    return 0


def digests(out: Path) -> dict[str, Any]:
    """Run all commands in `out`; what came out, by name."""
    found: dict[str, Any] = {}

    def mcd(*words: str) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "mcd", *words], cwd=out, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"mcd {' '.join(words)} ended with status {done.returncode}: {done.stderr[-2000:]}")

    def weights(name: str) -> None:
        for file in ("model.safetensors", "model.raw.safetensors"):
            found[f"{name}/{file}"] = sha256((out / name / file).read_bytes())

    mcd("prepare", "--data", "sotu", "--vocab-size", "512", "--out", "data")
    for file in sorted((out / "data").glob("*.bin")):
        found[f"data/{file.name}"] = sha256(file.read_bytes())
    for name, options in TEACHERS.items():
        mcd("train", *TRAINED, "--threads", "1", "--steps", "12", "--out", name, *options)
        weights(name)
    for name, (method, teacher, *options) in STUDENTS.items():
        size = ("--data", "data", "--rounds", "2", "--steps-per-round", "6", "--batch-size", "4", "--length", "32")
        mcd("distill", method, "--teacher", teacher, *size, "--threads", "1", "--out", name, *options)
        weights(name)
    mcd("prepare", "--data", "hmm", "--out", "hmm-data")
    mcd("train", *TRAINED, "--data", "hmm-data", "--threads", "1", "--steps", "12", "--out", "hmm-model")
    weights("hmm-model")
    samples = {
        f"{model}-{name}": (model, "--length", "32", *options)
        for model in ("demo", "masked")
        for name, options in MASKED_SAMPLERS.items()
    }
    for name, (model, *options) in (samples | OTHER_SAMPLES).items():
        steps = () if model == "causal" else ("--steps", "8")
        file = f"samples-{name}.jsonl"
        mcd("sample", model, "--num", "3", "--seed", "5", "--threads", "1", "--out", file, *steps, *options)
        rows = [json.loads(line) for line in (out / file).read_text().splitlines()]
        found[file] = sha256(json.dumps([[row["ids"], row["nfe"], row["text"]] for row in rows]).encode())
    for name, words in MEASURED.items():
        mcd("eval", *words, "--threads", "1", "--out", f"{name}.json")
        rows = json.loads((out / f"{name}.json").read_text())["rows"]
        found[f"{name}.json"] = [{key: row.get(key) for key in FIGURES} for row in rows]
    mcd("export", "masked", "--out", "exported")
    found["exported"] = sha256((out / "exported" / "model.safetensors").read_bytes())
    return found


def sha256(content: bytes) -> str:
    """Sixteen digits are enough to tell files apart."""
    return hashlib.sha256(content).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
