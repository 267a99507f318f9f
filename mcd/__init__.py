"""mcd: few-step masked diffusion language models by Masked Consistency Distillation.

`process` holds the mathematics, `model` the network, `checkpoints` its files, `data` the tokens, `objective` the
losses, `sampler` how text is drawn, `training` the training loop, `eval` the measurements, `report` the pages about
runs, `reproduce` the paper's experiments, `bench` speed and memory, and `cli` the commands (docs/architecture.md).
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Denoiser", "__version__", "from_pretrained"]

if TYPE_CHECKING:
    from mcd.checkpoints.folder import from_pretrained
    from mcd.model.denoiser import Denoiser


def __getattr__(name: str) -> Any:
    """Import the two public names on first use: `import mcd` alone never loads a network."""
    if name == "Denoiser":
        from mcd.model.denoiser import Denoiser

        return Denoiser
    if name == "from_pretrained":
        from mcd.checkpoints.folder import from_pretrained

        return from_pretrained
    raise AttributeError(f"module 'mcd' has no attribute {name!r}")
