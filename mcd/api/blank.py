"""A prompt with a blank after it, or a template, as rows to draw, and the text of what was drawn."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mcd.api.model import Model, Request
from mcd.data.token_texts import token_texts


@dataclass(frozen=True)
class Blank:
    """A prompt with its blank, or a template, as rows to draw."""

    request: Request
    prompt: str | None
    """The text before the blank; None for a template."""
    open: bool
    """Whether no text follows, so that the text may end within the blank."""
    stops: tuple[str, ...] = ()
    echo: bool = False

    def read(self, model: Model, ids: Tensor) -> tuple[str, Literal["stop", "length"], int]:
        """The text of a choice from the ids (L,) of its row, why it ends, and how many tokens it has."""
        blank = (self.request.ids == model.denoiser.blank_id).nonzero()[:, 0].tolist()
        row, reason = ids.tolist(), "length"
        if self.prompt is None:
            return model.writer.text(row), "length", len(blank)
        first, end = blank[0], blank[-1] + 1
        end_id = model.writer.end_id
        if self.open and end_id in row[first:end]:
            end, reason = row.index(end_id, first), "stop"
        shares = [share or "" for share in token_texts(model.tokenizer, row[:end] if self.open else row, -1)]
        given, text = "".join(shares[:first]), "".join(shares[first:end])
        if self.prompt.endswith(" ") and not given.endswith(" "):
            text = text.removeprefix(" ")  # the space was the blank's to write
        if cuts := [at for stop in self.stops if (at := text.find(stop)) >= 0]:
            text, reason = text[: min(cuts)], "stop"
        return self.prompt * self.echo + text, reason, end - first  # type: ignore[return-value]
