"""Reading from left to right: a causal network computes each position once, and keeps its keys and values."""

import torch
from torch import Tensor, nn

from mcd.model.attention import Kept
from mcd.model.backbone import Backbone
from mcd.model.dit import DiT, DiTConfig
from mcd.model.shapes import Shapes


class Reader:
    """Rows that are read from left to right by a causal network, at most `length` tokens of each.

    rows: of every call; fewer are filled up, so that the bits of a row do not depend on its company. dtype: of the
    products, as `Denoiser.dtype`. What is kept takes 2 * layers * rows * length * D numbers. Raises ValueError for a
    network that is not causal.
    """

    def __init__(self, network: Backbone, rows: int, length: int, dtype: torch.dtype = torch.float32):
        if not isinstance(network, DiT) or not network.config.causal:
            raise ValueError("only an autoregressive model is read from left to right; this one is not")
        self.network, self.rows, self.dtype = network, rows, dtype
        self._kept = [Kept(length) for _ in network.blocks]

    def read(self, ids: Tensor) -> Tensor:
        """Read the next tokens, ids (n, m) with n <= rows, behind those read before.

        Returns features (rows, D), which predict the token behind the last of them; n of them are of the rows given.
        """
        ids = torch.cat((ids, ids[:1].expand(self.rows - len(ids), -1)))
        x = nn.functional.embedding(ids, self.network.table())
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return self.network.read(x, self._kept).to(x.dtype)


def rows_to_read(config: DiTConfig, length: int, shapes: Shapes) -> int:
    """How many rows of `length` tokens a `Reader` reads at a time: few, and what is kept of them is bounded."""
    of_row = 2 * config.layers * length * config.hidden * 4
    return max(1, min(shapes.few_rows, shapes.kept_bytes // of_row))
