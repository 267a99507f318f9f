"""What a row of a metrics.json must hold before it is shown, or kept beside new ones."""

import math
from typing import Any

SHOWN: dict[str, tuple[str, ...]] = {
    "entropy": ("entropy", "repetition_4", "distinct_2"),
    "energy": ("energy", "energy_lo", "energy_hi", "energy_floor"),
    "tv_bigram": ("nll", "entropy_true", "tv_bigram", "bigram_entropy", "bigram_entropy_true"),
    "valid_nelbo": ("valid_nelbo", "valid_ppl"),
}
"""Numbers that stand together: with the first, all of them."""
MAY_LACK = (
    *("round", "steps", "nfe", "gen_ppl", "gen_ppl_lo", "gen_ppl_hi", "mauve", "mauve_ceiling", "valid_nelbo_se"),
    *("coverage", "grammatical"),
)
"""Numbers that are null where they do not apply."""


def is_row(row: Any) -> bool:
    """Is each value that the tables show of its kind? Which of them a row must have depends on what was measured."""
    if not isinstance(row, dict) or not isinstance(row.get("model"), str):
        return False
    if not isinstance(row.get("text", ""), str) or not isinstance(row.get("protocol", {}), dict):
        return False
    there = {first for first in SHOWN if row.get(first) is not None}
    there |= {first for first in ("tv_bigram", "valid_nelbo") if first in row} or {"entropy"}
    groups = (SHOWN[first] for first in there)
    return all(_is_number(row.get(name)) for names in groups for name in names) and all(
        row.get(name) is None or _is_number(row[name]) for name in MAY_LACK
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and not math.isnan(value)
