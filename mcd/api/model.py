"""`Model`: a model to use, with its tokenizer. Each method is a few lines around the samplers and the bound."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor

from mcd.api.results import Samples, Score, State
from mcd.checkpoints.folder import from_pretrained
from mcd.data.chat import chat_prompt
from mcd.data.encoder import Encoder
from mcd.data.special_tokens import frame_of
from mcd.data.template import read_template
from mcd.data.text import writer_of
from mcd.data.tokenizer import tokenizer_of_model, with_special_tokens
from mcd.errors import DataError, UsageError
from mcd.eval.bound_of_row import bound_of_row, check_has_likelihood
from mcd.model.denoiser import Denoiser
from mcd.options import LONGEST_ROW, Count, RowLength, fault
from mcd.sampler import Sampler, states
from mcd.sampler.choice import check_process, fitted, sampler_of
from mcd.training.trained_on import frame_of_model

DRAWS = 32
"""Draws of the bound for each row, by default."""


def load(name: str, weights: Literal["ema", "raw"] = "ema", device: str | torch.device | None = None) -> "Model":
    """A model by its name: a folder (ours, a run's, or one of Hugging Face), a hub id, or "demo", the bundled teacher.

    weights: which of a run folder, the average of training ("ema") or the last ones ("raw"). device: where to compute;
    by default a CUDA device if there is one, else the CPU. Raises UsageError, ModelError or DataError, which say
    what is wrong.
    """
    if not isinstance(name, str | os.PathLike):
        raise UsageError(f"name={name!r:.100}: must be a folder, a hub id, or 'demo'")
    if weights not in ("ema", "raw"):
        raise UsageError(f"weights={weights!r}: must be 'ema' or 'raw'")
    try:  # before the weights are read
        torch.empty(0, device=(where := device or ("cuda" if torch.cuda.is_available() else "cpu")))
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UsageError(f"device={device!r}: cannot be used here ({str(error).splitlines()[0]})") from None
    return Model(from_pretrained(str(name), weights).to(where))


@dataclass(frozen=True)
class Request:
    """Rows to be drawn: the sampler, the ids (L,) of each row at first, blank where text is wanted, and the two ids
    around them if there are any. text: what they were read from; notes: what whoever asks should know."""

    sampler: Sampler
    ids: Tensor
    frame: tuple[int, int] | None = None
    text: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of a row, with those around it."""
        return len(self.ids) + (0 if self.frame is None else 2)


class Model:
    """A model and its tokenizer, ready to write and to score text.

    denoiser: the network, which the rest of the package takes; tokenizer: its own; writer: writes ids as text; process:
    "masked", "uniform", "autoregressive", or "locked" (a student of `ltd`); length: tokens of its longest row.
    """

    def __init__(self, denoiser: Denoiser):
        if denoiser.folder is None:
            raise UsageError("the model has no folder, and so no tokenizer; save it, and load it by its folder")
        self.denoiser = denoiser
        self.tokenizer: Tokenizer = tokenizer_of_model(denoiser.folder, denoiser.config.tokens)
        self.process, self.length = denoiser.config.process, denoiser.config.backbone.length
        self.writer = writer_of(self.tokenizer, denoiser.folder)
        self._trained_in_frame = frame_of_model(denoiser.folder) is not None

    def __repr__(self) -> str:
        return f"<mcd.Model {self.denoiser.folder}: {self.process}, rows of {self.length} tokens>"

    def sample(
        self,
        num: int = 1,
        *,
        steps: int | None = None,
        seed: int = 0,
        length: int | None = None,
        sampler: str | Sampler | None = None,
        frame: bool = False,
        first_row: int = 0,
        **options: Any,
    ) -> Samples:
        """Draw `num` rows of text in `steps` steps (32 by default; an autoregressive model takes one per token).

        length: tokens of a row, by default the longest that the model makes; a longer row is drawn in windows
        (`mcd.sampler.rows.windows`). sampler, options: as of `mcd sample`, such as sampler="confidence", greedy=True,
        temperature=0.8, top_p=0.9, order="low-discrepancy"; or a sampler itself. frame: begin and end each row with the
        tokenizer's own tokens ([CLS], [SEP]). A row depends on the weights, `seed`, its number and the options alone,
        and rows are numbered from `first_row`: `sample(1, first_row=3)` is the last row of `sample(4)`.
        Raises UsageError or DataError, which name the option as the command line spells it.
        """
        how = {"steps": steps, "length": length, "sampler": sampler, "frame": frame, **options}
        return self._drawn(_told(self.request(**how)), num, seed, first_row)

    def infill(
        self,
        template: str | Sequence[str | int],
        num: int = 1,
        *,
        candidates: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        length: int | None = None,
        sampler: str | Sampler | None = None,
        frame: bool = False,
        special_tokens: bool = False,
        first_row: int = 0,
        **options: Any,
    ) -> Samples:
        """Fill in a template: text with [MASK] or [MASK:n] (n tokens) anywhere, all else of which is kept. Or its
        parts, texts and numbers of blank tokens.

        A row ends where the template ends; with `length` it is blank from there on up to that many tokens.
        candidates: draw that many rows and return the `num` that the model finds likeliest, best first: those with the
        lowest bound of what was written given the rest (`bound_of_row`, the same draws for all). special_tokens: names
        of special tokens in the template become these tokens. The other arguments are those of `sample`. Warns where
        the tokenizer cannot keep the text to the byte, such as that of an uncased BERT (docs/infilling.md).
        """
        how = {"steps": steps, "length": length, "sampler": sampler, "frame": frame, **options}
        request = _told(self.request(template, special_tokens=special_tokens, **how))
        if candidates is None:
            return self._drawn(request, num, seed, first_row)
        for option, value in (("--num", num), ("--candidates", candidates)):
            if wanted := fault(value, Count):
                raise UsageError(f"{option} {value}: must be {wanted}")
        if candidates < num:
            raise UsageError(f"--candidates {candidates}: must be at least the {num} rows to return")
        check_has_likelihood(self.denoiser)
        drawn, written = self._drawn(request, candidates, seed, first_row), request.ids == self.denoiser.blank_id
        nats = [bound_of_row(self.denoiser, row, written, DRAWS, seed, request.frame)[0] for row in drawn.ids]
        best = sorted(range(candidates), key=nats.__getitem__)[:num]
        return Samples(
            [drawn.texts[i] for i in best],
            drawn.ids[best],
            [drawn.rows[i] for i in best],
            [drawn.nfe[i] for i in best],
            [nats[i] / int(written.sum()) for i in best],
        )

    def stream(
        self,
        template: str | None = None,
        num: int = 1,
        *,
        steps: int | None = None,
        seed: int = 0,
        length: int | None = None,
        sampler: str | Sampler | None = None,
        frame: bool = False,
        special_tokens: bool = False,
        first_row: int = 0,
        **options: Any,
    ) -> Iterator[State]:
        """Every state of the rows that `infill` draws, or `sample` without a template: the start, then one per step."""
        how = {"steps": steps, "length": length, "sampler": sampler, "frame": frame, **options}
        return self.states(_told(self.request(template, special_tokens=special_tokens, **how)), num, seed, first_row)

    def score(self, texts: str | Sequence[str], *, draws: int = DRAWS, seed: int = 0) -> list[Score]:
        """How likely the model finds each text, as a row of its own without an end of text.

        draws: of the bound for each text; four times as many halve its error. A text longer than the model's rows is
        read in windows, as it would be written. The scores of a text do not depend on the others. Raises UsageError for
        a model that has no likelihood, DataError for a text without tokens or which the tokenizer cannot write.
        """
        check_has_likelihood(self.denoiser)
        if wanted := fault(draws, Count):
            raise UsageError(f"--draws {draws}: must be {wanted}")
        if not isinstance(texts, Iterable):
            raise UsageError(f"texts={texts!r:.100}: must be a text or a list of texts")
        encoder, scores = Encoder(self.tokenizer.to_str()), []
        for number, text in enumerate([texts] if isinstance(texts, str) else texts):
            if not isinstance(text, str):
                raise UsageError(f"text {number}: must be text, not {text!r:.100}")
            ids = self._ids_of_text(encoder, text, f"text {number}")
            nats, error = bound_of_row(self.denoiser, ids, torch.ones_like(ids, dtype=torch.bool), int(draws), seed)
            exact = self.process == "autoregressive"
            scores.append(Score(nats, error, len(ids), len(text.encode()), exact))
        return scores

    def request(
        self,
        template: str | Sequence[str | int] | None = None,
        *,
        chat: str | None = None,
        steps: int | None = None,
        length: int | None = None,
        sampler: str | Sampler | None = None,
        frame: bool = False,
        special_tokens: bool = False,
        **options: Any,
    ) -> Request:
        """What is to be drawn, checked, with nothing drawn yet. template: also as its parts, texts and numbers of
        blank tokens, in which no text is read as [MASK]. chat: a message to the model, put into its chat
        template. Raises UsageError and DataError."""
        if wanted := fault(length, RowLength | None):
            raise UsageError(f"--length {length}: must be {wanted}")
        if template is not None and not _is_template(template):
            raise UsageError(f"--template {template!r:.100}: must be text, or texts and numbers of blank tokens")
        if isinstance(sampler, Sampler):
            if given := [name for name, value in {"steps": steps, **options}.items() if value is not None]:
                raise UsageError(f"--{given[0]}: is a field of the sampler that was given; set it there")
        else:
            sampler = sampler_of(self.process, sampler, steps=steps, **options)
        check_process(sampler, self.denoiser)
        around, ids, notes = self._frame(frame, length), None, ()
        if not frame and self._trained_in_frame:
            notes = ("the model was trained on rows in a frame; --frame draws such rows",)
        inside = None if length is None else length - 2 * frame
        blank_id, whole = self.denoiser.blank_id, inside or self.length - 2 * frame
        if chat is not None:
            assert self.denoiser.folder is not None
            template, ids = chat_prompt(self.denoiser.folder, self.tokenizer, chat, blank_id, whole)
        elif template is not None:
            reader = with_special_tokens(self.tokenizer) if special_tokens else self.tokenizer
            read = read_template(reader, template, blank_id, inside)
            ids = read.ids
            notes += tuple(f"--template: the model's tokenizer reads {old!r} as {new!r}" for old, new in read.changed)
        row = torch.full((whole,), blank_id) if ids is None else torch.tensor(ids)
        text = template if isinstance(template, str) else None
        return Request(fitted(sampler, self.denoiser, len(row)), row, around, text, notes)

    def states(self, request: Request, num: int = 1, seed: int = 0, first_row: int = 0) -> Iterator[State]:
        """Every state of the rows of a request."""
        args = (num, request.length, seed, first_row, request.ids, request.frame)
        for step in states(request.sampler, self.denoiser, *args):
            yield State(step.t, step.z, step.nfe.tolist(), self.denoiser.blank_id, self.writer)

    def _drawn(self, request: Request, num: int, seed: int, first_row: int) -> Samples:
        *_, last = self.states(request, num, seed, first_row)
        return Samples(last.texts, last.ids.cpu(), list(range(first_row, first_row + num)), last.nfe)

    def _frame(self, frame: bool, length: int | None) -> tuple[int, int] | None:
        if not frame:
            return None
        if (length or self.length) < 3:
            raise UsageError(f"--length {length or self.length}: must be at least 3 with --frame")
        return frame_of(self.tokenizer, str(self.denoiser.folder))

    def _ids_of_text(self, encoder: Encoder, text: str, name: str) -> Tensor:
        encoder.lost = type(encoder.lost)()
        try:
            (ids,) = encoder.encode([text])
        except ValueError as error:
            raise DataError(f"{name}: the model's tokenizer cannot encode it ({error})") from None
        if encoder.lost.too_much():
            raise DataError(f"{name}: {encoder.lost.summary}; give text that it knows")
        if encoder.lost.summary:
            warnings.warn(f"{name}: {encoder.lost.summary}", stacklevel=3)
        if not 1 <= len(ids) <= LONGEST_ROW:
            raise DataError(f"{name}: has {len(ids):,} tokens; 1 to {LONGEST_ROW:,} can be scored")
        if never := [i for i in ids if i in self.denoiser.config.forbidden]:
            raise DataError(f"{name}: holds {self.tokenizer.id_to_token(never[0])}, which the model never says")
        return torch.tensor(ids)


def _is_template(value: Any) -> bool:
    """Whether it is text or its parts, since whoever calls from Python may give anything."""
    return isinstance(value, str) or (
        isinstance(value, Sequence) and all(isinstance(part, str | int) for part in value)
    )


def _told(request: Request) -> Request:
    """The request, after its notes are told as warnings of the caller."""
    for note in request.notes:
        warnings.warn(note, stacklevel=3)
    return request
