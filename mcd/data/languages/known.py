"""Languages whose truth is known: synthetic streams with an exact likelihood, for training, sampling and measuring."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from mcd.data.languages.english import ASSETS, tables
from mcd.data.languages.hidden_markov import HiddenMarkov, stationary_law
from mcd.data.manifest import is_prepared, read_manifest
from mcd.data.tokenizer import load_tokenizer, word_tokenizer


@dataclass(frozen=True, eq=False)
class Language(HiddenMarkov):
    """A stationary hidden Markov model with a name and a word for each of its V symbols.

    noiseless: the emissions of a grammar without its noise, for `grammatical`; None where there is no such thing.
    tokens_of: the tokenizer.json of which the symbols are the tokens; None where they are words of their own.
    classes: (V,) int64, the class of each symbol; None where symbols are in no classes.
    """

    name: str
    symbols: tuple[str, ...]
    noiseless: Tensor | None = None
    tokens_of: Path | None = None
    classes: Tensor | None = None

    def tokenizer(self) -> Tokenizer:
        """What reads and writes the symbols as text."""
        return word_tokenizer(self.symbols) if self.tokens_of is None else load_tokenizer(self.tokens_of)

    def grammatical(self, ids: Tensor) -> Tensor:
        """Is each row a window of some text without noise? (N, L) to (N,) bool.

        Raises ValueError for foreign ids, and when the language has no noise to leave out.
        """
        if self.noiseless is None:
            raise ValueError(f"the language {self.name} calls no text ungrammatical")
        return self._log_likelihood(ids, self.noiseless).isfinite()

    @functools.cached_property
    def of_classes(self) -> HiddenMarkov | None:
        """The law of the classes of what the language says, a hidden Markov model too; None without classes.

        Where symbols are many, samples hold few of their n-grams, but many of those of their classes.
        """
        if self.classes is None:
            return None
        emission = self.emission.new_zeros(len(self.start), int(self.classes.max()) + 1)
        return HiddenMarkov(self.transition, emission.index_add(1, self.classes, self.emission), self.start)

    def in_classes(self, ids: Tensor) -> tuple[Tensor, HiddenMarkov] | None:
        """The classes of ids, of their shape, and the law of classes; None without classes."""
        if self.classes is None or self.of_classes is None:
            return None
        return self.classes[ids], self.of_classes

    def brackets(self) -> list[tuple[int, int]]:
        """The ids of the opening and the closing bracket of each kind that the grammar has; none without a grammar."""
        if self.noiseless is None:
            return []
        return [(self.symbols.index(opening), self.symbols.index(closing)) for opening, closing in BRACKETS]

    def sha256(self) -> str:
        """A hash of the law (nine decimals) and the symbols; it distinguishes streams of other versions."""
        tensors = [self.transition, self.emission, self.start]
        whole = hashlib.sha256("\n".join((self.name, *self.symbols)).encode())
        for tensor in tensors:
            whole.update((np.round(tensor.numpy() * 1e9)).astype("<i8").tobytes())
        return whole.hexdigest()


@functools.cache
def markov() -> Language:
    """A sparse Markov chain over 32 symbols: every symbol has four likely successors, favourites among them."""
    rng, V = np.random.RandomState(0), 32  # RandomState: numpy never changes its streams
    popularity = 1.0 / np.arange(1, V + 1) ** 0.5
    transition = np.zeros((V, V))
    for row, once in zip(transition, rng.permutation(V), strict=True):  # every symbol follows at least one
        p = np.where(np.arange(V) == once, 0.0, popularity)
        row[[once, *rng.choice(V, 3, replace=False, p=p / p.sum())]] = (0.25, 0.55, 0.13, 0.07)
    return _language("markov", _smooth_rows(transition, 0.02), np.eye(V), _SYLLABLES)


@functools.cache
def hmm() -> Language:
    """Eight hidden states in a ring, mostly passed through in order.

    A state has three symbols of its own and shares two with the state opposite; then only the neighbours can tell.
    """
    rng, S, V = np.random.RandomState(1), 8, 32
    transition, emission = np.zeros((S, S)), np.zeros((S, V))
    for state in range(S):
        jump = rng.choice([2, 3, 4, 5, 6])
        transition[state, [(state + step) % S for step in (1, 0, jump, 7)]] = (0.83, 0.08, 0.06, 0.03)
        own, shared = 3 * state + np.arange(3), 3 * S + 2 * (state % 4) + np.arange(2)
        emission[state, [*own, *shared]] = (0.62, 0.12, 0.04, 0.16, 0.06)
    return _language("hmm", _smooth_rows(transition, 0.005), _smooth_rows(emission, 0.01), _SYLLABLES)


BRACKETS = ("()", "[]", "{}", "<>")
DEPTH = 3
_OPEN = (0.25, 0.08, 0.06, 0.0)  # by depth: the chance that a bracket opens next, and that the innermost closes
_CLOSE = (0.0, 0.08, 0.14, 0.25)
NOISE = 0.002


@functools.cache
def grammar() -> Language:
    """Nested brackets of four types, up to three deep, with words between them: a closing bracket must agree.

    Each of 24 words may occur inside two of the four types (six pairs, four words each), so that one word does not
    show the type and a few words do; outside, all may occur. A pair of the outermost brackets spans 22 tokens on
    average, one of the second level 10. The hidden state is the stack and whether a word, an opening or a closing
    bracket comes. One token in 500 is replaced by any symbol, and the text continues as if it had not been.
    """
    types = range(len(BRACKETS))
    pairs = list(combinations(types, 2))
    words = [(pair, k) for pair in pairs for k in range(4)]
    stacks = [stack for depth in range(DEPTH + 1) for stack in product(types, repeat=depth)]
    states = [(kind, stack) for kind in ("word", "open", "close") for stack in stacks if stack or kind == "word"]
    number = {state: i for i, state in enumerate(states)}
    rng, V = np.random.RandomState(2), len(words) + 2 * len(types)
    frequency = {}
    for innermost in ((), *((k,) for k in types)):
        allowed = [w for w, (pair, _) in enumerate(words) if not innermost or innermost[0] in pair]
        weights = 0.45 ** np.arange(len(allowed))
        frequency[innermost] = rng.permutation(allowed), weights / weights.sum()
    transition, emission = np.zeros((len(states), len(states))), np.zeros((len(states), V))
    for (kind, stack), i in number.items():
        if kind == "word":
            allowed, weights = frequency[stack[-1:]]
            emission[i, allowed] = weights
        else:
            emission[i, len(words) + 2 * stack[-1] + (kind == "close")] = 1.0
        left = stack[:-1] if kind == "close" else stack  # what is open behind this token
        depth = len(left)
        transition[i, number["word", left]] = 1.0 - _OPEN[depth] - _CLOSE[depth]
        if depth < DEPTH:
            for k, share in zip(types, (0.4, 0.3, 0.2, 0.1), strict=True):
                transition[i, number["open", (*left, k)]] = _OPEN[depth] * share
        if left:
            transition[i, number["close", left]] = _CLOSE[depth]
    names = [f"{'rscp'[a]}{'rscp'[b]}{k}" for (a, b), k in words]  # round, square, curly, pointed
    symbols = (*names, *(bracket for pair in BRACKETS for bracket in pair))
    return _language("grammar", transition, _smooth_rows(emission, NOISE), symbols, emission)


@functools.cache
def english() -> Language:
    """A model of English with the vocabulary of text: 512 hidden states and 2,048 tokens of a byte-level BPE.

    It was fitted to the bundled addresses (`mcd.data.languages.english`). What it says sounds like them over a few
    words, and has no sense; but its law is known exactly, which that of text is not.
    """
    path = ASSETS / "tokenizer.json"
    tokenizer, (transition, emission, classes) = load_tokenizer(path), tables()
    symbols = tuple(str(tokenizer.id_to_token(i)) for i in range(emission.shape[1]))
    start = stationary_law(transition)
    return Language(transition, emission, start, "english", symbols, tokens_of=path, classes=classes)


LANGUAGES: dict[str, Callable[[], Language]] = {"markov": markov, "hmm": hmm, "grammar": grammar, "english": english}
"""Languages by name; each call gives the same object."""


def language_of_data(data: str) -> str | None:
    """The synthetic language that `data` names, or that a prepared folder was made from; None for text."""
    source = read_manifest(Path(data))["recipe"]["source"] if is_prepared(data) else data
    return source if source in LANGUAGES else None


_SYLLABLES = tuple(a + b for a in "bdfgklmn" for b in "aeio")


def _language(
    name: str,
    transition: np.ndarray,
    emission: np.ndarray,
    symbols: tuple[str, ...],
    noiseless: np.ndarray | None = None,
) -> Language:
    T, E = torch.from_numpy(transition), torch.from_numpy(emission)
    clean = None if noiseless is None else torch.from_numpy(noiseless)
    return Language(T, E, stationary_law(T), name, symbols, clean)


def _smooth_rows(p: np.ndarray, share: float) -> np.ndarray:
    """Rows with `share` of their mass spread evenly: full support, so that no likelihood is zero."""
    return (1.0 - share) * p + share / p.shape[1]
