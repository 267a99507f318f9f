"""Put a trained teacher into the package: python dev/bundle.py runs/teacher

It stores the EMA weights in float16 (half the size; the network computes in float32) with configuration, tokenizer
and run.json, which records how it was trained.
"""

import shutil
import sys
from pathlib import Path

import torch

from mcd.checkpoints.folder import from_pretrained, save_pretrained
from mcd.checkpoints.locate import DEMO

run = Path(sys.argv[1])
model = from_pretrained(str(run))
save_pretrained(model, DEMO, (run / "tokenizer.json").read_text(encoding="utf-8"), dtype=torch.float16)
shutil.copy(run / "run.json", DEMO / "run.json")
print(f"{DEMO}: {sum(path.stat().st_size for path in DEMO.iterdir()) / 2**20:.1f} MiB")
