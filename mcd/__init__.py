"""mcd: few-step masked diffusion language models by Masked Consistency Distillation.

    model = mcd.load("demo")
    model.sample(4, steps=8, seed=0).texts
    model.infill("The [MASK:12] of the United States [MASK:8] peace.", steps=8)
    model.score(["My fellow citizens"])
    student = mcd.distill("mcd", teacher="demo", out="runs/student")

docs/python.md explains these functions, and docs/architecture.md the package: `process` holds the mathematics, `model`
the network, `checkpoints` its files, `data` the tokens, `objective` the losses, `sampler` how text is drawn, `training`
the training loop, `eval` the measurements, `api` the models to use, `report` the pages about runs, `reproduce` the
paper's experiments, `bench` speed and memory, and `cli` the commands.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Denoiser", "Model", "__version__", "distill", "from_pretrained", "load", "train"]

if TYPE_CHECKING:
    from mcd.api.model import Model, load
    from mcd.checkpoints.folder import from_pretrained
    from mcd.cli.functions import distill, train
    from mcd.model.denoiser import Denoiser

_MODULES = {
    "Denoiser": "mcd.model.denoiser",
    "Model": "mcd.api.model",
    "distill": "mcd.cli.functions",
    "from_pretrained": "mcd.checkpoints.folder",
    "load": "mcd.api.model",
    "train": "mcd.cli.functions",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: `import mcd` alone never loads a network."""
    if name not in _MODULES:
        raise AttributeError(f"module 'mcd' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
