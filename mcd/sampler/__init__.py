"""HOW TO GENERATE: one file is one sampler. Every `Sampler` in this folder is found and listed here by its name."""

import importlib
import pkgutil

from mcd.sampler.base import Sampler, Step, sample

__all__ = ["DEFAULT_SAMPLER", "SAMPLERS", "Sampler", "Step", "sample"]


def _collect() -> dict[str, type[Sampler]]:
    found: dict[str, type[Sampler]] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Sampler) and "name" in vars(value):
                found[value.name] = value
    return found


SAMPLERS = _collect()

DEFAULT_SAMPLER = {"masked": "ancestral", "uniform": "uniform", "autoregressive": "causal"}
"""The sampler of each kind of model when none is named."""
