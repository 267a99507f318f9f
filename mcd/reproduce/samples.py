"""A few samples beside every table, for those who would rather read."""

from collections.abc import Sequence
from pathlib import Path

from mcd.checkpoints.folder import locate
from mcd.data.text import writer_of
from mcd.data.tokenizer import load_tokenizer
from mcd.eval.laboratory.lab import MeasuredCell


def write_specimens(path: Path, measured: Sequence[MeasuredCell], work: Path, each: int = 2) -> None:
    """The first `each` samples of every cell, as a page of Markdown."""
    parts = ["# Samples\n\nThe first rows of some cells, seed 0; `[...]` is how they were drawn.\n"]
    for one in measured:
        folder = locate(one.cell.source(work))
        writer = writer_of(load_tokenizer(folder), folder)
        round = f", round {one.cell.round}" if one.cell.round else ""
        options = "".join(f", {name} {value}" for name, value in one.cell.options)
        parts.append(f"## {one.cell.label}{round} [{one.cell.steps} steps{options}]\n")
        texts = (writer.text(row) for row in one.arrays["ids"][:each].tolist())
        parts += [f"> {' '.join(text.split())}\n" for text in texts]
    path.write_text("\n".join(parts), encoding="utf-8")
