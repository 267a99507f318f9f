"""Measure time and peak memory of `mcd import` and `mcd export` for a large checkpoint of 863M random weights.

The script makes the two layouts (some 10 GB in --work, removed at the end), then runs each command in its own
process. Making them needs the memory of all weights twice; the commands do not.

    python benchmarks/import_large.py --work runs/import_large
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from mcd.checkpoints.public_layout import Sizes, rotary_buffer
from mcd.model.dit import SIZES

RUN = """
import sys, time
from mcd.bench.memory import peak
from mcd.cli.main import main
started = time.perf_counter()
status = main(sys.argv[1:])
print(f"{time.perf_counter() - started:.0f} s, peak {peak() / 1e9:.2f} GB: mcd {sys.argv[1]}")
sys.exit(status)
"""

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--work", type=Path, default=Path("runs/import_large"))
args = parser.parse_args()
width, layers, heads = (SIZES["large"][key] for key in ("hidden", "layers", "heads"))
shapes = Sizes(50_258, width, layers, 128).shapes()


def random_weights(seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def mcd(*words):
    subprocess.run([sys.executable, "-c", RUN, *map(str, words)], check=True)


hub, lightning = args.work / "hub", args.work / "large.ckpt"
hub.mkdir(parents=True)
try:
    raw = {f"backbone.{name}": tensor for name, tensor in random_weights(0).items()}
    raw["backbone.rotary_emb.inv_freq"] = rotary_buffer(width, heads)
    save_file(raw, hub / "model.safetensors")
    sizes = {"n_heads": heads, "model_length": 1024, "dropout": 0.1}
    (hub / "config.json").write_text(json.dumps({"model_type": "mdlm", "time_conditioning": False, **sizes}))
    config = {
        "parameterization": "subs",
        "backbone": "dit",
        "noise": {"type": "loglinear"},
        "time_conditioning": False,
        "model": {"n_heads": heads, "length": 1024, "dropout": 0.1},
        "data": {"tokenizer_name_or_path": "gpt2"},
    }
    ema = {"decay": 0.9999, "num_updates": 5, "shadow_params": list(random_weights(1).values())}
    state = {"state_dict": raw, "ema": ema, "global_step": 400_000, "hyper_parameters": {"config": config}}
    torch.save(state, lightning)
    del raw, ema, state
    for path in (hub / "model.safetensors", lightning):
        print(f"{path.name}: {path.stat().st_size / 1e9:.2f} GB", flush=True)
    mcd("import", hub, "--out", args.work / "of-hub", "--tokenizer", "none")
    mcd("import", lightning, "--out", args.work / "of-ckpt", "--tokenizer", "none")
    mcd("export", args.work / "of-hub", "--out", args.work / "exported")
finally:
    shutil.rmtree(args.work)
