"""The rows of a metrics.json as tables on the terminal, none wider than 80 columns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcd.table import print_table, shown


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Tables of samples, of how they compare with real text or a known truth, and of likelihoods; those with rows."""
    samples = [row for row in rows if "valid_nelbo" not in row]
    _print(samples, _samples, "round", "steps", "NFE", "Gen PPL", "95 % interval", "entropy", "rep-4", "distinct-2")
    for note in (note for row in samples for note in notes(row)):
        print(note)
    compared = [row for row in samples if row.get("energy") is not None]
    _print(compared, _comparison, "steps", "by", "energy", "95 % interval", "real text", "MAUVE", "ceiling")
    copied = [row for row in samples if row.get("copied_from")]
    _print(copied, _copied, "steps", "8-grams copied", "95 % interval", "held-out", "longest run", "held-out")
    known = [row for row in samples if "tv_bigram" in row]
    _print(known, _truth, "steps", "NLL", "true", "TV-2", "H(2|1)", "true", "covered", "gramm.")
    nested = [row for row in known if row.get("agree_near") is not None]
    _print(nested, _nested, "steps", "grammatical", "near agree", "95 % interval", "far agree", "95 % interval")
    likelihoods = [row for row in rows if "valid_nelbo" in row]
    _print(likelihoods, _likelihood, "text", "nats/token", "PPL", "bits/byte", "95 % interval", "rows")
    infilled = [
        one | {key: row[key] for key in ("model", "text")} for row in likelihoods for one in row.get("infilled", ())
    ]
    _print(infilled, _infilled, "text", "masked", "words restored", "95 % interval", "tokens", "words")
    for note in (note for row in likelihoods for note in likelihood_notes(row)):
        print(note)


def notes(row: dict[str, Any]) -> tuple[str, ...]:
    """What a reader of a row of samples must know in addition to its numbers, a sentence each."""
    found, protocol = [], row.get("protocol") or {}
    context, samples = protocol.get("scorer_context"), row.get("samples")
    if row.get("unscored"):
        found.append(
            f"{row['unscored']} of {samples} texts have no token to score; they count in entropy, but not in Gen PPL"
        )
    if row.get("truncated"):
        found.append(
            f"{row['truncated']} of {samples} texts are longer than the scorer's context of {context} tokens; what is "
            "beyond was not scored"
        )
    if row.get("duplicates"):
        found.append(f"{row['duplicates']} of {samples} samples repeat an earlier one, token by token")
    features, tokens = protocol.get("features") or "scorer", row.get("features_context") or context
    for key, of, total in (
        ("features_truncated", "", samples),
        ("reference_truncated", " of the reference", protocol.get("reference_samples")),
    ):
        if row.get(key) and (key == "reference_truncated" or features != "scorer"):
            whose = "the scorer's context" if features == "scorer" else f"the context of {features}"
            found.append(
                f"{row[key]} of {total} texts{of} are longer than {whose} of {tokens} tokens, and were compared up to "
                "there"
            )
    if protocol.get("counted") == "scorer":
        found.append("entropy, rep-4 and distinct-2 are over the scorer's tokens: the file holds no token ids")
    steps = "" if row["steps"] is None else f", {row['steps']} steps"
    return tuple(f"{Path(row['model']).name}{steps}: {note}" for note in found)


def likelihood_notes(row: dict[str, Any]) -> tuple[str, ...]:
    """What a reader of a row of likelihood must know in addition to its numbers, a sentence each."""
    model, text, protocol = Path(row["model"]).name, Path(row["text"]).name, row.get("protocol") or {}
    found = [f"{text}: {row['counted']}"] if row.get("counted") else []
    if row.get("bytes_of"):
        found.append(f"{model}: bits per byte are of {row['bytes_of']}")
    if protocol.get("scorer"):
        found.append(f"{model}: a causal model, exact, per token of its own; it is not asked for ends of documents")
    if row.get("truncated"):
        found.append(
            f"{model}: {row['truncated']} rows of {text} are longer than its context of "
            f"{protocol.get('scorer_context')} tokens, and were left out"
        )
    return tuple(found)


def _print(rows: list[dict[str, Any]], cells: Callable[[dict[str, Any]], tuple[str, ...]], *headings: str) -> None:
    if rows:
        print_table(("model", *headings), [(Path(row["model"]).name, *cells(row)) for row in rows], width=16)


def _samples(row: dict[str, Any]) -> tuple[str, ...]:
    lo, hi, interval = row["gen_ppl_lo"], row["gen_ppl_hi"], "-"
    if row["gen_ppl"] is not None and lo is not None and hi is not None:
        decimals = 1 if hi < 1000 else 0
        interval = f"{lo:.{decimals}f}-{hi:.{decimals}f}"
    return (
        str(row["round"] or "-"),
        str(row["steps"] or "-"),
        shown(row["nfe"], ".1f"),
        shown(row["gen_ppl"], ".1f"),
        interval,
        *(f"{row[key]:.3f}" for key in ("entropy", "repetition_4", "distinct_2")),
    )


def _comparison(row: dict[str, Any]) -> tuple[str, ...]:
    digits = 2 if row["energy_floor"] >= 0.1 else 4  # vectors of length 1 are never far apart
    return (
        str(row["steps"] or "-"),
        (row.get("protocol") or {}).get("features") or "scorer",
        f"{row['energy']:.{digits}f}",
        f"{row['energy_lo']:.{digits}f} to {row['energy_hi']:.{digits}f}",
        f"<{row['energy_floor']:.{digits}f}",
        shown(row.get("mauve"), ".3f"),
        shown(row.get("mauve_ceiling"), ".3f"),
    )


def _copied(row: dict[str, Any]) -> tuple[str, ...]:
    lo, hi = row["copied_8_lo"], row["copied_8_hi"]
    return (
        str(row["steps"] or "-"),
        f"{row['copied_8']:.2%}",
        "-" if lo is None or hi is None else f"{lo:.2%}-{hi:.2%}",
        f"{row['copied_8_held_out']:.2%}",
        str(row["copied_run_max"]),
        str(row["copied_run_max_held_out"]),
    )


def _truth(row: dict[str, Any]) -> tuple[str, ...]:
    keys = ("nll", "entropy_true", "tv_bigram", "bigram_entropy", "bigram_entropy_true", "coverage", "grammatical")
    return (str(row["steps"] or "-"), *(shown(row[key], ".3f") for key in keys))


def _nested(row: dict[str, Any]) -> tuple[str, ...]:
    shares = []
    for name in ("agree_near", "agree_far"):
        value, lo, hi = (row[f"{name}{end}"] for end in ("", "_lo", "_hi"))
        shares += [shown(value, ".1%"), "-" if lo is None or hi is None else f"{lo:.1%}-{hi:.1%}"]
    return (str(row["steps"] or "-"), f"{row['grammatical']:.1%}", *shares)


def _likelihood(row: dict[str, Any]) -> tuple[str, ...]:
    lo, hi, error = row.get("valid_bpb_lo"), row.get("valid_bpb_hi"), row["valid_nelbo_se"]
    return (
        Path(row["text"]).name,
        f"{row['valid_nelbo']:.3f}" + ("" if error is None else f"±{error:.3f}"),
        f"{row['valid_ppl']:.1f}",
        shown(row.get("valid_bpb"), ".3f"),
        "-" if lo is None or hi is None else f"{lo:.3f}-{hi:.3f}",
        str(row["rows"]),
    )


def _infilled(row: dict[str, Any]) -> tuple[str, ...]:
    lo, hi = row["word_accuracy_lo"], row["word_accuracy_hi"]
    return (
        Path(row["text"]).name,
        f"{row['rate']:.0%}",
        f"{row['word_accuracy']:.1%}",
        "-" if lo is None or hi is None else f"{lo:.1%}-{hi:.1%}",
        f"{row['token_accuracy']:.1%}",
        f"{row['words']:,}",
    )
