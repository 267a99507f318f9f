"""The tables of the language `english`: a hidden Markov model of text, as dev/fit_english.py fitted it.

Every token belongs to one of C classes, and each class has k hidden states, which say its tokens and no others: S = C k
states (Chiu and Rush, "Scaling Hidden Markov Language Models", arXiv 2011.04640). The file keeps the laws as whole
numbers, so that they are the same on every machine: each row in units of its largest entry / 65,535, and none below
one, so that every text has a likelihood.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import mcd

ASSETS = Path(mcd.__file__).resolve().parent / "assets" / "english"
FILE = "tables.safetensors"


def quantised(transition: Tensor, emission: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """The tensors of the file. transition (S, S): rows sum to 1; emission (V, k): p(token | each state of its class);
    classes (V,): of the tokens, in [0, C). State j of class c has the number c k + j.
    """
    largest = torch.zeros(int(classes.max()) + 1, emission.shape[1], dtype=emission.dtype)
    largest = largest.scatter_reduce(0, classes[:, None].expand_as(emission), emission, "amax")
    return {
        "transition": _units(transition / transition.amax(1, keepdim=True)),
        "emission": _units(emission / largest[classes]),
        "classes": classes.to(torch.uint16),
    }


def tables(folder: Path = ASSETS) -> tuple[Tensor, Tensor, Tensor]:
    """transition (S, S) and emission (S, V), float64, and the class of each token (V,), of the file in a folder."""
    stored = load_file(folder / FILE)
    transition, said = stored["transition"].double(), stored["emission"].double()
    (V, k), S = said.shape, len(transition)
    classes = stored["classes"].long()
    states = classes[:, None] * k + torch.arange(k)
    emission = torch.zeros(S, V, dtype=torch.float64).index_put((states, torch.arange(V)[:, None]), said)
    return _laws(transition), _laws(emission), classes


def _units(share: Tensor) -> Tensor:
    return (65_535 * share.double()).round().clamp(min=1).to(torch.uint16)


def _laws(p: Tensor) -> Tensor:
    return p / p.sum(1, keepdim=True)
