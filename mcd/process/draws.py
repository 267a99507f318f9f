"""`Draws`: the random numbers of a training step, the same however its rows are divided."""

import torch
from torch import Tensor

from mcd.process.timestep import sample_u, stratified_t
from mcd.process.uniform import sample_rival
from mcd.process.unmasking import sample_u_of_row


class Draws:
    """The random numbers of some rows of a batch of shape (B, L): t and u (paper, Algorithm 1), and others on request.
    They are on the CPU.

    Each part of a batch, on whatever process, draws for the whole batch, from one stream, and keeps the numbers of its
    own `rows`: row i gets the same t, u and noise on one process or among 64, and t is stratified over all B
    rows (as in Duo's public code). The numbers of a row are few, so drawing those of the others costs next to nothing.

    generator: a CPU stream that nothing else draws from. rows: the rows of this part, all by default. diffused: (B, L)
    bool for the whole batch, True where a token is learnt; the others, a prompt or padding, have u = 0 and so are
    visible at every t. None: all are learnt. Raises ValueError for a `diffused` of another shape.
    """

    diffused: Tensor | None
    """(b, L) bool: what is learnt of this part's rows; None for all."""
    divisor: float
    """What a sum over this part's tokens is divided by: the mean over equal parts is then the mean over all B L
    positions of the batch, or over all that are learnt."""

    def __init__(
        self,
        generator: torch.Generator,
        B: int,
        L: int,
        rows: slice = slice(None),
        diffused: Tensor | None = None,
    ):
        if diffused is not None and diffused.shape != (B, L):
            raise ValueError(f"diffused has shape {tuple(diffused.shape)}, not {(B, L)}")
        self.generator, self.B, self.L, self.rows = generator, B, L, rows
        own = len(range(B)[rows])
        self._diffused_of_all = diffused
        self.diffused = None if diffused is None else self._own(diffused)
        self.divisor = own * L if diffused is None else max(1, int(diffused.sum())) * own / B

    def t(self, low: float, high: float, shuffled: bool = False) -> Tensor:
        """Stratified times in (low, high], float32 (b,): see `stratified_t`.

        The first row has the smallest time. `shuffled`: in random order, for a second time that is independent of it.
        """
        t = stratified_t(self.B, low, high, self.generator)
        return self._own(t[torch.randperm(self.B, generator=self.generator)] if shuffled else t)

    def u(self, order: str = "iid") -> Tensor:
        """Thresholds u in (0, 1], float32 (b, L), 0 where nothing is diffused; `order` as in `process.unmasking`.

        An order runs only over the diffused tokens of a row (`sample_u_of_row`).
        """
        if order == "iid":
            u = sample_u(self.B, self.L, self.generator)
        else:
            every = torch.ones(self.B, self.L, dtype=torch.bool)
            wanted = every if self._diffused_of_all is None else self._diffused_of_all
            u = torch.stack([sample_u_of_row(order, row, 0.0, self.generator) for row in wanted]).float()
        own = self._own(u)
        return own if self.diffused is None else own.masked_fill(~self.diffused, 0.0)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), float64, `shape` numbers per row: (b, *shape)."""
        return self._own(torch.rand(self.B, *shape, dtype=torch.float64, generator=self.generator))

    def rival(self, x0: Tensor, K: int) -> Tensor:
        """For each token of this part's x0 (b, L), another one, uniform over the K - 1 others: see `sample_rival`."""
        shift = sample_rival(torch.zeros(self.B, self.L, dtype=torch.int64), K, self.generator)
        return (x0 + self._own(shift)) % K

    def normal(self, K: int) -> Tensor:
        """Gaussian noise of all K coordinates of each token, float32 (b, L, K). Large: each row has its own stream."""
        seeds = torch.randint(2**62, (self.B,), generator=self.generator)[self.rows].tolist()
        rows = [torch.randn(self.L, K, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows)

    def whole(self) -> "Draws":
        """The draws of all rows of the batch, from here on; this stream stays where it is."""
        generator = torch.Generator()
        generator.set_state(self.generator.get_state())
        return Draws(generator, self.B, self.L, diffused=self._diffused_of_all)

    def _own(self, of_all: Tensor) -> Tensor:
        return of_all[self.rows]
