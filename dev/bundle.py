"""Put a trained teacher into the package: python dev/bundle.py runs/teacher

It stores the EMA weights in float16 (half the size; the network computes in float32) with configuration, tokenizer
and run.json, which records how it was trained: its data by the name of their source, its first network by that of the
script which makes it, and not by the paths of the machine. The model's longest row is that of its training.
"""

import shutil
import sys
from pathlib import Path

import torch

from mcd.checkpoints.folder import from_pretrained, lengthened, save_pretrained
from mcd.checkpoints.locate import DEMO
from mcd.data.manifest import is_prepared, read_manifest
from mcd.files import read_json, write_json

run = Path(sys.argv[1])
record = read_json(run / "run.json")
model, length = from_pretrained(str(run)), record["config"]["train"]["length"]
for said in (record, *record.get("earlier", [])):
    config = said["config"]
    if is_prepared(config["data"]):
        recipe = read_manifest(Path(config["data"]))["recipe"]
        config["data"], length = recipe["source"], length or recipe["length"]
    if config["init"] is not None:
        config["init"] = "dev/warm_start.py"
    said.pop("command", None)
model = lengthened(model, length or model.config.backbone.length)  # the positions beyond are not trained
shutil.rmtree(DEMO)
save_pretrained(model, DEMO, (run / "tokenizer.json").read_text(encoding="utf-8"), dtype=torch.float16)
write_json(DEMO / "run.json", record)
print(f"{DEMO}: {sum(path.stat().st_size for path in DEMO.iterdir()) / 2**20:.1f} MiB")
