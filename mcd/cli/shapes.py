"""What `--dry-run` and `mcd doctor` say of the shapes in which this machine's device computes."""

from pathlib import Path
from typing import Any

from mcd.checkpoints.config import read_config
from mcd.checkpoints.locate import locate
from mcd.machine import device


def shapes_here(width: int, V: int) -> dict[str, Any]:
    """The shapes of a network of that width and V tokens on this process's device, under "shapes"."""
    from mcd.model.shapes import shapes_of

    return {"shapes": shapes_of(device(), width, V).as_dict()}


def shapes_of_model(model: str) -> dict[str, Any]:
    """`shapes_here` of a model; nothing for one that is not on this machine, since none is fetched for this."""
    if model != "demo" and not (Path(model) / "config.json").is_file():
        return {}
    config = read_config(locate(model))
    return shapes_here(config.backbone.hidden, config.vocab_size)
