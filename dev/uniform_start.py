"""The start of a uniform teacher from a masked one: python dev/uniform_start.py runs/teacher data/uniform OUT

Uniform diffusion has no mask: its noise is of tokens. OUT is the masked network without the mask's row, which must be
the last one, and with the tokenizer of the prepared folder data/uniform, which has no mask either. Then:
mcd train --method duo --init OUT --data data/uniform ...
"""

import sys
from dataclasses import replace
from pathlib import Path

from mcd.checkpoints.folder import from_pretrained, save_pretrained
from mcd.checkpoints.loading import unfilled_model
from mcd.data.tokenizer import load_tokenizer
from mcd.model.adapted.config import AdaptedConfig

run, data, out = map(Path, sys.argv[1:])
masked, tokenizer = from_pretrained(str(run)), load_tokenizer(str(data))
backbone, V = masked.config.backbone, tokenizer.get_vocab_size()
assert isinstance(backbone, AdaptedConfig) and masked.mask_id == V == backbone.rows - 1
settings = backbone.settings | {backbone.family.rows: V, "mask_token_id": None}
uniform = unfilled_model(
    replace(masked.config, mask_id=None, backbone=replace(backbone, settings=settings, forbidden=(), tokens=V))
)
rows_of = {name: len(value) for name, value in uniform.state_dict().items() if value.dim()}
uniform.load_state_dict(
    {name: value[: rows_of[name]] if value.dim() else value for name, value in masked.state_dict().items()}
)
save_pretrained(uniform, out, tokenizer.to_str(), beside={"tokenizer_config.json": '{"eos_token": "<|endoftext|>"}\n'})
