"""The numbers of a network from which its memory and its arithmetic follow, without making it."""

import re
from dataclasses import dataclass

import torch
from torch import nn

from mcd.model.adapted.config import AdaptedConfig
from mcd.model.dit import DiTConfig

HEADS = ("num_attention_heads", "n_heads", "n_head")
"""Names that config.json of the families has for the number of heads."""
DROPOUT = r"drop(out)?$|_(dropout|pdrop)(_prob)?$"
"""Names of rates of dropout there."""


@dataclass(frozen=True)
class Sizes:
    """Shape letters: D width of the blocks, K rows of the embedding.

    attention: width of the queries of all heads. head: width of what the head reads. length: the longest row. dropout:
    does training drop values?
    parameters: numbers in all weights; block_parameters: in those of one block. products: numbers in the matrices of
    one block, each of which multiplies every position; perceptron: those of its perceptron divided by D, which is the
    sum of its widths. spared: numbers in the matrices that the last block applies to the wanted positions only.
    transform: numbers in the matrices between the last block and the head, which are applied to these alone too.
    """

    hidden: int
    layers: int
    heads: int
    attention: int
    rows: int
    head: int
    length: int
    dropout: bool
    parameters: int
    block_parameters: int
    products: int
    perceptron: int
    spared: int
    transform: int

    def forward_flops(self, length: int, wanted: float) -> float:
        """Operations for a token of a forward pass over rows of `length`, without the head; a multiply-add is two.

        wanted: the share of positions whose features are asked for.
        """
        matrices = self.layers * self.products - (1 - wanted) * self.spared + wanted * self.transform
        return 2 * matrices + 4 * length * self.attention * self.layers

    def head_flops(self) -> int:
        """Operations of the vocabulary projection for a position."""
        return 2 * self.rows * self.head


def sizes_of(config: DiTConfig | AdaptedConfig) -> Sizes:
    """The sizes of a backbone.

    Those of a network of Hugging Face are counted on PyTorch's meta device, which makes no weights. Raises ValueError
    for settings that `transformers` refuses.
    """
    if isinstance(config, DiTConfig):
        D = config.hidden
        return Sizes(
            hidden=D,
            layers=config.layers,
            heads=config.heads,
            attention=D,
            rows=config.rows,
            head=D,
            length=config.length,
            dropout=config.dropout > 0,
            parameters=config.parameters,
            block_parameters=config.block_parameters,
            products=12 * D * D,
            perceptron=8 * D,
            spared=10 * D * D,  # queries, output projection and perceptron
            transform=0,
        )
    from mcd.model.adapted.network import Adapted

    with torch.device("meta"):
        network = Adapted(config)
    blocks = network.shardable_layers()
    matrices = {name: p for name, p in blocks[0].named_parameters() if p.dim() == 2}
    perceptron = [p for name, p in matrices.items() if "att" not in name]
    D, heads = min(perceptron[0].shape), next(config.settings[name] for name in HEADS if name in config.settings)
    return Sizes(
        hidden=D,
        layers=len(blocks),
        heads=heads,
        attention=heads * config.settings["head_dim"] if config.settings.get("head_dim") else D,
        rows=config.rows,
        head=config.hidden,
        length=config.length,
        dropout=any(bool(rate) for name, rate in config.settings.items() if re.search(DROPOUT, name)),
        parameters=_numbers(network),
        block_parameters=_numbers(blocks[0]),
        products=sum(p.numel() for p in matrices.values()),
        perceptron=sum(p.numel() for p in perceptron) // D,
        spared=0,
        transform=sum(p.numel() for p in network.transform.parameters() if p.dim() == 2),
    )


def _numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
