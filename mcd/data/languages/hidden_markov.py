"""Stationary hidden Markov models: any window of what they say has an exact likelihood.

S hidden states, V symbols; float64 throughout; ids are (N, L) int64. Forward-backward in scaled form: Rabiner, "A
tutorial on hidden Markov models" (1989), Section III.
"""

import functools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK_ELEMENTS = 1 << 21  # of one (L, S, N) array: 16 MiB
_TABLE_CELLS = 1 << 27


@dataclass(frozen=True, eq=False)
class HiddenMarkov:
    """transition (S, S), emission (S, V): rows sum to 1; start (S,): the law that the transition keeps.

    A model equals only itself.
    """

    transition: Tensor
    emission: Tensor
    start: Tensor

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.emission.shape[1]

    def sample_rows(self, num: int, length: int, generator: torch.Generator) -> Tensor:
        """`num` independent windows, (num, length) int64; one long row is a stream of text."""
        start, transition, emission = (_cdf(p) for p in (self.start[None], self.transition, self.emission))
        ids: list[int] = []
        for row in torch.rand((num, length, 2), dtype=torch.float64, generator=generator).tolist():
            cdf = start[0]
            for v_state, v_symbol in row:
                state = bisect_right(cdf, v_state)
                ids.append(bisect_right(emission[state], v_symbol))
                cdf = transition[state]
        return torch.tensor(ids, dtype=torch.int64).view(num, length)

    def log_likelihood(self, ids: Tensor) -> Tensor:
        """log p of each row as a window of the stream: (N, L) to (N,), nats. Raises ValueError for foreign ids."""
        return self._log_likelihood(ids, self.emission)

    @functools.cache  # noqa: B019 - models are few and live as long as the process
    def entropy(self, length: int, rows: int = 1024) -> tuple[float, float]:
        """E[-log p] of a window of `length` tokens, nats a token, and its standard error.

        Exact (error 0) where states are seen: H(X_1) + (length - 1) H(X_2 | X_1). Elsewhere the mean over `rows`
        fixed windows of sum_i H(X_i | x_1 .. x_{i-1}), which has the expectation of -log p and varies less.
        """
        if torch.equal(self.emission, torch.eye(len(self.start), dtype=torch.float64)):
            first, rest = _entropy(self.start), self.start @ _entropy(self.transition)
            return float(first + (length - 1) * rest) / length, 0.0
        values = []
        for ids in self._chunks(self.sample_rows(rows, length, torch.Generator().manual_seed(0))):
            predictions = (predicted for predicted, _, _ in self._forward(self._seen(ids, self.emission)))
            values.append(torch.stack([_entropy(self._spoken(law).T) for law in predictions]).mean(0))
        per_row = torch.cat(values)
        return per_row.mean().item(), per_row.std().item() / math.sqrt(rows)

    def ngram(self, n: int) -> Tensor:
        """The exact law of n neighbouring symbols, (V, ..., V).

        Raises ValueError for n < 1, and for a table of more than 2^27 cells (1 GiB); `ngram_at` needs none.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        if self.vocab_size**n > _TABLE_CELLS:
            raise ValueError(f"the law of {n} symbols out of {self.vocab_size} has too many cells; use ngram_at")
        reached = self.start  # (V, ..., V, S): p(symbols so far, hidden state of the next)
        for _ in range(n - 1):
            reached = (reached[..., None, :] * self.emission.T) @ self.transition
        return reached @ self.emission

    def ngram_at(self, grams: Tensor) -> Tensor:
        """The exact law of n neighbouring symbols at some n-grams only: (M, n) ids to (M,) probabilities.

        The work is one step of the chain for each beginning of n - 1 symbols; grams in lexicographic order are the
        quickest. Raises ValueError for foreign ids.
        """
        laws = []
        for part in self._checked(grams).split(max(1, _CHUNK_ELEMENTS // (4 * len(self.start)))):
            codes = (part[:, :-1] * self.vocab_size ** torch.arange(part.shape[1] - 2, -1, -1)).sum(1)
            _, which = codes.unique(return_inverse=True)
            first = torch.empty(int(which.max()) + 1, dtype=torch.int64).scatter_(0, which, torch.arange(len(part)))
            reached = self.start[:, None].expand(-1, len(first))  # p(symbols so far, hidden state of the next)
            for seen in self._seen(part[first, :-1], self.emission):
                reached = self._onward @ (reached * seen)
            last = self.emission.index_select(1, part[:, -1])
            laws.append((reached.index_select(1, which) * last).sum(0))
        return torch.cat(laws)

    def posterior(self, z: Tensor, mask_id: int) -> Tensor:
        """p(x0_i | the visible tokens of z), the Bayes denoiser: (B, L) ids with masks to (B, L, V) probabilities.

        What a perfectly trained x_theta predicts at any time: given the visible tokens, t adds no information.
        Raises ValueError for foreign ids.
        """
        masked = z == mask_id
        known = self._checked(torch.where(masked, 0, z))
        parts = self._chunks(torch.where(masked, self.vocab_size, z))
        law = torch.cat([self._spoken(self._smooth(part)[0].permute(1, 2, 0)).permute(1, 2, 0) for part in parts])
        return torch.where(masked[..., None], law, torch.nn.functional.one_hot(known, self.vocab_size).to(law.dtype))

    def state_occupancy(self, ids: Tensor) -> Tensor:
        """Expected visits of each hidden state given the row: (N, L) to (N, S), which sum to L. ValueError as above."""
        return torch.cat([self._smooth(part)[0].sum(0).T for part in self._chunks(self._checked(ids))])

    def rule_counts(self, ids: Tensor) -> Tensor:
        """Expected uses of each hidden transition given the rows, of all rows together: (N, L) to (S, S).

        They sum to N (L - 1). Raises ValueError for foreign ids.
        """
        counts = torch.zeros_like(self.transition)
        for part in self._chunks(self._checked(ids)):
            _, filtered, ahead = self._smooth(part)
            for before, after in zip(filtered[:-1], ahead[1:], strict=True):
                mass = ((self._onward @ before) * after).sum(0)
                counts += (before / mass) @ after.T
        return counts * self.transition

    @functools.cached_property
    def _onward(self) -> Tensor:
        """(S, S): law of the hidden state (S, N) to that of the next; sparse where that is quicker."""
        return _quick(self.transition.T)

    @functools.cached_property
    def _backward(self) -> Tensor:
        """(S, S): the transposed map."""
        return _quick(self.transition)

    @functools.cached_property
    def _saying(self) -> Tensor:
        """(V, S): law of the hidden state to that of its symbol."""
        return _quick(self.emission.T)

    def _spoken(self, law: Tensor) -> Tensor:
        """Laws of the hidden state (S, ...) to those of its symbol (V, ...)."""
        return (self._saying @ law.flatten(1)).view(self.vocab_size, *law.shape[1:])

    def _checked(self, ids: Tensor) -> Tensor:
        if not ids.numel() or not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise ValueError(f"ids must lie in [0, {self.vocab_size}), at least one row of at least one token")
        return ids

    def _chunks(self, ids: Tensor) -> tuple[Tensor, ...]:
        """Rows in parts of bounded memory."""
        return ids.split(max(1, _CHUNK_ELEMENTS // (ids.shape[1] * len(self.start))))

    def _seen(self, ids: Tensor, emission: Tensor) -> Iterator[Tensor]:
        """p(token i | hidden state), (S, N), for i = 0, 1, ...; the id V means a token that is not seen."""
        table = torch.cat((emission, torch.ones(len(emission), 1, dtype=emission.dtype)), 1)
        return (table.index_select(1, column) for column in ids.T)

    def _log_likelihood(self, ids: Tensor, emission: Tensor) -> Tensor:
        parts = []
        for part in self._chunks(self._checked(ids)):
            scales = [scale for _, _, scale in self._forward(self._seen(part, emission))]
            parts.append(torch.stack(scales).log().sum(0))
        return torch.cat(parts)

    def _forward(self, seen: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For i = 0, 1, ...: p(h_i | tokens before i), p(h_i | those and i), (S, N); p(token i | those before), (N,).

        Zeros from an impossible token on.
        """
        predicted = self.start[:, None]
        for seen_i in seen:
            joint = predicted * seen_i
            scale = joint.sum(0)
            filtered = joint / scale.clamp(min=1e-300)
            yield predicted.expand_as(joint), filtered, scale
            predicted = self._onward @ filtered

    def _smooth(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """p(h_i | the row), p(h_i | tokens up to i), and p(tokens from i on | h_i) up to a factor, each (L, S, N)."""
        seen = list(self._seen(ids, self.emission))
        filtered = torch.stack([filtered for _, filtered, _ in self._forward(seen)])
        ahead, smoothed = torch.empty_like(filtered), torch.empty_like(filtered)
        after = torch.ones_like(filtered[0])  # p(tokens behind i | h_i), scaled
        for i in reversed(range(len(seen))):
            joint = filtered[i] * after
            smoothed[i] = joint / joint.sum(0)
            ahead[i] = seen[i] * after
            after = self._backward @ ahead[i]
            after = after / after.sum(0)
        return smoothed, filtered, ahead


def stationary_law(transition: Tensor) -> Tensor:
    """The law that the chain keeps: start @ transition = start. (S, S), irreducible, to (S,)."""
    equations = transition.T - torch.eye(len(transition), dtype=torch.float64)
    equations[-1] = 1.0  # one balance equation follows from the others; in its place, the law sums to 1
    right = torch.zeros(len(transition), dtype=torch.float64)
    right[-1] = 1.0
    return torch.linalg.solve(equations, right)


def _quick(p: Tensor) -> Tensor:
    """The matrix p as a factor from the left, sparse where it is large and mostly zero."""
    return p.to_sparse() if p.numel() > 1 << 15 and p.count_nonzero() < 0.1 * p.numel() else p


def _cdf(p: Tensor) -> list[list[float]]:
    """Cumulative rows that end in exactly 1, so that a search for v in [0, 1) finds an entry that has mass."""
    cdf = p.cumsum(-1)
    return (cdf / cdf[:, -1:]).tolist()


def _entropy(p: Tensor) -> Tensor:
    """-sum p log p over the last dimension, nats."""
    return -torch.xlogy(p, p).sum(-1)
