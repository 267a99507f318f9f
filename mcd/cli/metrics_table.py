"""The rows of a metrics.json as tables on the terminal, none wider than 80 columns."""

from pathlib import Path
from typing import Any


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Tables of samples, of how they compare with real text or a known truth, of likelihoods; those with rows."""
    samples = [row for row in rows if "valid_nelbo" not in row]
    if samples:
        _print(("round", "steps", "NFE", "Gen PPL", "95 % interval", "entropy", "rep-4", "distinct-2"), samples, _cells)
        for row in samples:
            for note in notes(row):
                print(note)
    compared = [row for row in samples if row.get("energy") is not None]
    if compared:
        _print(("steps", "energy", "95 % interval", "real text", "MAUVE", "real text"), compared, _comparison)
    known = [row for row in samples if "tv_bigram" in row]
    if known:
        _print(("steps", "NLL", "true", "TV-2", "H(2|1)", "true", "covered", "gramm."), known, _truth)
    likelihoods = [row for row in rows if "valid_nelbo" in row]
    if likelihoods:
        _print(("text", "nats a token", "s.e.", "PPL", "rows", "draws"), likelihoods, _likelihood)
    for row in likelihoods:
        if row.get("counted"):
            print(f"{Path(row['text']).name}: {row['counted']}")


def notes(row: dict[str, Any]) -> tuple[str, ...]:
    """What a reader of a row of samples must know beside its numbers, a sentence each."""
    told, protocol = [], row.get("protocol") or {}
    steps = "" if row["steps"] is None else f", {row['steps']} steps"
    name = Path(row["model"]).name + steps
    context = protocol.get("scorer_context")
    if row.get("truncated"):
        told.append(
            f"{name}: {row['truncated']} of {row['samples']} texts are longer than the scorer's context of {context} "
            "tokens; what is beyond was not scored"
        )
    if row.get("reference_truncated"):
        told.append(
            f"{name}: {row['reference_truncated']} of {protocol.get('reference_samples')} texts of the reference are "
            f"longer than the scorer's context of {context} tokens, and were compared up to there"
        )
    if protocol.get("counted") == "scorer":
        told.append(f"{name}: entropy, rep-4 and distinct-2 are over the scorer's tokens: the file holds no token ids")
    return tuple(told)


def _print(headings: tuple[str, ...], rows: list[dict[str, Any]], cells: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    table.add_column("model", overflow="ellipsis", no_wrap=True, min_width=14, max_width=16)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(Path(row["model"]).name, *cells(row))
    Console(markup=False).print(table)  # names of folders are no markup


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    ppl, interval = "-", "-"
    if row["gen_ppl"] is not None:
        ppl = f"{row['gen_ppl']:.1f}"
    if row["gen_ppl"] is not None and row["gen_ppl_lo"] is not None and row["gen_ppl_hi"] is not None:
        decimals = 1 if row["gen_ppl_hi"] < 1000 else 0
        interval = f"{row['gen_ppl_lo']:.{decimals}f}-{row['gen_ppl_hi']:.{decimals}f}"
    return (
        str(row["round"] or "-"),
        str(row["steps"] or "-"),
        f"{row['nfe']:.1f}" if row["nfe"] is not None else "-",
        ppl,
        interval,
        f"{row['entropy']:.3f}",
        f"{row['repetition_4']:.3f}",
        f"{row['distinct_2']:.3f}",
    )


def _truth(row: dict[str, Any]) -> tuple[str, ...]:
    values = (row[key] for key in ("nll", "entropy_true", "tv_bigram", "bigram_entropy", "bigram_entropy_true"))
    shares = (row["coverage"], row["grammatical"])
    return (
        str(row["steps"] or "-"),
        *(f"{value:.3f}" for value in values),
        *("-" if share is None else f"{share:.3f}" for share in shares),
    )


def _comparison(row: dict[str, Any]) -> tuple[str, ...]:
    similar, best = row.get("mauve"), row.get("mauve_ceiling")
    return (
        str(row["steps"] or "-"),
        f"{row['energy']:.2f}",
        f"{row['energy_lo']:.2f} to {row['energy_hi']:.2f}",
        f"<{row['energy_floor']:.2f}",
        "-" if similar is None else f"{similar:.3f}",
        "-" if best is None else f"{best:.3f}",
    )


def _likelihood(row: dict[str, Any]) -> tuple[str, ...]:
    error = row["valid_nelbo_se"]
    return (
        Path(row["text"]).name,
        f"{row['valid_nelbo']:.4f}",
        "-" if error is None else f"{error:.4f}",
        f"{row['valid_ppl']:.2f}",
        str(row["rows"]),
        str(row["draws"]),
    )
