"""metrics.json: `{"command": what was typed, "rows": [...]}`, rows of samples and of likelihoods."""

import math
from pathlib import Path
from typing import Any

from mcd.errors import UsageError
from mcd.files import JSONError, read_json, write_json

SAMPLES = {
    *("model", "round", "steps", "nfe", "gen_ppl", "gen_ppl_lo", "gen_ppl_hi"),
    *("entropy", "repetition_4", "distinct_2"),
}
"""Keys of every row of samples that the table shows."""
LIKELIHOOD = {"model", "text", "valid_nelbo", "valid_nelbo_se", "valid_ppl", "rows", "draws", "protocol"}
"""Keys of every row of likelihood."""
TOGETHER = {
    "entropy": ("entropy", "repetition_4", "distinct_2"),
    "energy": ("energy", "energy_lo", "energy_hi", "energy_floor"),
    "tv_bigram": ("nll", "entropy_true", "tv_bigram", "bigram_entropy", "bigram_entropy_true"),
    "valid_nelbo": ("valid_nelbo", "valid_ppl"),
}
"""Numbers that the tables show together: a row that has the first has all of them."""
MAY_LACK = (
    *("round", "steps", "nfe", "gen_ppl", "gen_ppl_lo", "gen_ppl_hi", "mauve", "mauve_ceiling", "valid_nelbo_se"),
    *("coverage", "grammatical", "valid_bpb", "valid_bpb_lo", "valid_bpb_hi"),
)
"""Numbers that are null where they do not apply."""


def write_metrics(path: Path, rows: list[dict[str, Any]], command: str) -> None:
    """Write a metrics.json atomically; `command` is what was typed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"command": command, "rows": rows})


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.json that is to be written again; none where there is no file.

    Raises UsageError when it is another file, which must not be lost.
    """
    if not path.exists():
        return []
    try:
        rows = read_json(path, strict=False)["rows"]
    except (JSONError, KeyError, TypeError):
        rows = None
    if not isinstance(rows, list) or not all(
        _is_row(row) and (row.keys() >= SAMPLES or row.keys() >= LIKELIHOOD) for row in rows
    ):
        raise UsageError(f"--out {path}: exists, and is damaged or no metrics.json of mcd; name a new file")
    return rows


def _is_row(row: Any) -> bool:
    """Whether each value that the tables show is of its kind."""
    if not isinstance(row, dict) or not isinstance(row.get("model"), str):
        return False
    if not isinstance(row.get("text", ""), str) or not isinstance(row.get("protocol", {}), dict):
        return False
    firsts = {first for first in TOGETHER if row.get(first) is not None}
    firsts |= {first for first in ("tv_bigram", "valid_nelbo") if first in row} or {"entropy"}
    return all(_is_number(row.get(name)) for first in firsts for name in TOGETHER[first]) and all(
        row.get(name) is None or _is_number(row[name]) for name in MAY_LACK
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and not math.isnan(value)
