"""WHAT IS LEARNT: one file is one method. Every `Objective` in this folder is found and listed here by its name."""

import importlib
import pkgutil

from mcd.objective.base import Clock, Loss, Objective

__all__ = ["OBJECTIVES", "Clock", "Loss", "Objective"]


def _collect() -> dict[str, type[Objective]]:
    found: dict[str, type[Objective]] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Objective) and "name" in vars(value):
                found[value.name] = value
    return found


OBJECTIVES = _collect()
