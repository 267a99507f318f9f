"""What experiments on text share: cells, the sentence of the figures, reference rows and pages of samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcd.checkpoints.config import read_config
from mcd.checkpoints.locate import DEMO, locate
from mcd.data.prepare.corpus import documents
from mcd.data.text import writer_of
from mcd.data.token_texts import token_texts
from mcd.data.tokenizer import load_tokenizer, tokenizer_of_model
from mcd.eval.laboratory.experiment import Cell, sampler_options
from mcd.eval.laboratory.lab import Lab, MeasuredCell
from mcd.reproduce.scales import Scale

SENTENCE = "The dogmas of the quiet past are inadequate to the stormy present."
"""A sentence from Abraham Lincoln's message of 1862, in the bundled corpus."""
DEMO_CONFIG = read_config(DEMO)
V = DEMO_CONFIG.mask_id or 0
"""Real tokens of the bundled teacher; K = V + 1 with the mask, whose id is V."""


def sentence_tokens(text: str = SENTENCE) -> tuple[Tensor, list[str]]:
    """The bundled tokenizer's ids of a sentence of the bundled corpus, (L,), and the text of each, spaces as '·'.

    Raises ValueError for text that the corpus does not hold.
    """
    if not any(text in document for document in documents("sotu")):
        raise ValueError(f"{text!r} is not in the bundled corpus")
    tokenizer = tokenizer_of_model(DEMO, DEMO_CONFIG.tokens)
    ids: list[int] = tokenizer.encode(" " + text, add_special_tokens=False).ids  # as after another sentence
    return torch.tensor(ids), [(share or "").replace(" ", "·") for share in token_texts(tokenizer, ids, V)]


def text_cell(
    scale: Scale, model: str, steps: int, label: str, round: int | None = None, judge: int = 0, **options: Any
) -> Cell:
    """A cell of text with the scale's sample size and scorer; `options` are the sampler's."""
    return Cell(
        model,
        steps,
        scale.num,
        label,
        round,
        scale.length,
        sampler_options(**options),
        scorer=scale.judges[judge],
        scorer_precision=scale.scorer_precision,
    )


def reference_rows(scale: Scale, work: Path) -> list[dict[str, Any]]:
    """Rows that samples are compared with: held-out text, the same with its words shuffled, and two kinds of nonsense.

    They are measured once and kept in the work folder.
    """
    return Lab(work).references(work / scale.text[0], text_cell(scale, "text", 1, "text"))


def shared_protocol(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The fields of the protocol in which all rows agree."""
    first = rows[0]["protocol"]
    return {key: value for key, value in first.items() if all(row["protocol"].get(key) == value for row in rows)}


def write_samples(path: Path, measured: Sequence[MeasuredCell], work: Path, each: int = 2) -> None:
    """The first `each` samples of every cell, as a page of Markdown."""
    parts = ["# Samples\n\nThe first rows of some cells, seed 0; `[...]` is how they were drawn.\n"]
    for one in measured:
        folder = locate(one.cell.source(work))
        writer = writer_of(load_tokenizer(str(folder)), folder)
        round = f", round {one.cell.round}" if one.cell.round else ""
        options = "".join(f", {name} {value}" for name, value in one.cell.options)
        parts.append(f"## {one.cell.label}{round} [{one.cell.steps} steps{options}]\n")
        texts = (writer.text(row) for row in one.arrays["ids"][:each].tolist())
        parts += [f"> {' '.join(text.split())}\n" for text in texts]
    path.write_text("\n".join(parts), encoding="utf-8")
