"""What a `Denoiser` asks of the network inside it, whoever wrote that network.

Shape letters: B batch, L length, D width of what the head reads, K rows of embedding and head.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """Embedding, features of chosen rows, and the vocabulary projection, which is multiplied elsewhere (`model.head`).

    checkpointing: while training, keep only what enters each block and compute the block again when its gradient is
    due (Chen et al., arXiv 1604.06174): memory falls to about one block's, time grows by one forward pass.
    """

    checkpointing: bool = False

    @abstractmethod
    def table(self) -> Tensor:
        """The embedding, (K, width): the row of each id."""

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor, rows: Tensor | None = None, group: int | None = None) -> Tensor:
        """Embedded tokens x (B, L, width) to the features the vocabulary projection reads, (B, L, D).

        sigma: (B,), or (1,) if all are equal. rows: flat positions (n,); the result then has only these, (n, D). group:
        what is made for the rows alone is made in padded groups of exactly that many, so that a row's bits do not
        depend on how many others are wanted.
        """

    @abstractmethod
    def states(self, x: Tensor, sigma: Tensor, layer: int) -> Tensor:
        """What block `layer`, counted from 1, gives for embedded tokens x (B, L, width); later blocks do not run.

        sigma as in `forward`. Returns (B, L, D), each position's own state, whatever token it predicts.
        """

    @abstractmethod
    def projection(self) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,) of the vocabulary projection, through which gradients flow to what they are."""

    @abstractmethod
    def shardable_layers(self) -> list[nn.Module]:
        """The transformer blocks, in order: what FSDP2 shards one by one, before the whole."""

    def compile_blocks(self) -> None:
        """Compile all blocks but the last, which a sampler gives whole rows, so that each is compiled once.

        What is computed for wanted rows only stays as it is: their number changes from call to call.
        """
        for block in self.shardable_layers()[:-1]:
            block.compile(dynamic=False)

    def stored_name(self, name: str) -> str:
        """The name in a model file of the tensor that `state_dict` calls `name`."""
        return f"backbone.{name}"

    def tidied(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a model file without those that say nothing new. Raises ValueError where copies differ."""
        return tensors
