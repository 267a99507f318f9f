"""The validation NELBO of models over all held-out rows of the bundled text, nats a token, with its standard error.

python benchmarks/likelihood.py demo runs/demo/student
"""

import sys
from pathlib import Path

from mcd.checkpoints.folder import from_pretrained
from mcd.cli.data_option import prepared
from mcd.data.loader import open_loader
from mcd.eval.likelihood import nelbo

for name in sys.argv[1:]:
    model = from_pretrained(name)
    assert model.folder is not None
    valid = open_loader(prepared("sotu", Path("runs/data"), model.folder / "tokenizer.json"), "valid", 32, 128)
    batches = [valid.batch(i).x0 for i in range(valid.rows // 32)] * 2  # two draws of t and u a row
    found = nelbo(model, batches)
    print(f"{name}: {found['valid_nelbo']:.3f} +- {found['valid_nelbo_se']:.3f} nats a token, {valid.rows} rows")
