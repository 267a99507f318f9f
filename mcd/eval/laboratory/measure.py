"""Measuring cells: samples of a model, a file of samples, held-out text, its shuffled words, and the controls."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from mcd.data.languages.known import LANGUAGES
from mcd.data.loader import open_loader, spread_rows
from mcd.data.text import Borders, Writer, writer_of
from mcd.data.tokenizer import load_tokenizer, tokenizer_of_model
from mcd.errors import UsageError
from mcd.eval.control import CONTROLS, tuned
from mcd.eval.diversity import sample_entropy
from mcd.eval.known_language import truth_metrics
from mcd.eval.laboratory.samples_file import Samples
from mcd.eval.laboratory.shares import sample_in_shares
from mcd.eval.mauve import Reference, reference_of
from mcd.eval.metrics import PLAIN, Scoring, measure, shuffled
from mcd.eval.protocol import Protocol, protocol_of_dict
from mcd.eval.scorer import SampleScore, Scorer, same_vocabulary
from mcd.model.denoiser import Denoiser
from mcd.sampler import Sampler


@dataclass(frozen=True)
class Cell:
    """One row of metrics.json, the samples it was measured on, and the scorer's scores of them."""

    row: dict[str, Any]
    samples: list[dict[str, Any]]
    scores: list[SampleScore] | None = None


def measure_model(
    denoiser: Denoiser,
    sampler: Sampler,
    scorer: Scorer | None,
    num: int,
    length: int,
    seed: int,
    weights: Literal["ema", "raw"],
    model: str,
    round: int | None = None,
    *,
    scoring: Scoring = PLAIN,
    language: str | None = None,
    frame: tuple[int, int] | None = None,
) -> Cell:
    """Sample `num` rows and measure them.

    language: the known language (of LANGUAGES) whose truth judges the ids too. frame: ids of the tokens around each
    row, which are not measured (see `mcd.sampler.sample`).
    Raises UsageError when the scorer is to take ids as they are and has another vocabulary, or cannot tell documents
    apart and should.
    """
    assert denoiser.folder is not None
    tokenizer = tokenizer_of_model(denoiser.folder, denoiser.config.tokens)
    _check_scorer(scoring, scorer, tokenizer)
    ids, nfe = sample_in_shares(sampler, denoiser, num, length, seed, frame=frame)
    writer = writer_of(tokenizer, denoiser.folder, scoring.borders)
    texts = [writer.documents(row) for row in ids.tolist()]
    protocol = protocol_of_dict(
        sampler.protocol()
        | {
            "borders": writer.borders,
            "length": length,
            "frame": True if frame else None,
            "weights": weights,
            "seed": seed,
            "threads": torch.get_num_threads(),
        }
    )
    extra = truth_metrics(ids, LANGUAGES[language](), seed=seed) if language else None
    mean_nfe = nfe.double().mean().item()
    measured = measure(
        ids.numpy(),
        texts,
        scorer,
        protocol,
        model=model,
        round=round,
        steps=sampler.steps,
        nfe=mean_nfe,
        scoring=scoring,
        extra=extra,
        seed=seed,
    )
    samples = [
        {"row": i, "seed": seed, "steps": sampler.steps, "nfe": calls, "ids": row_ids}
        | writer.fields(row_ids)
        | {"protocol": protocol.as_dict()}
        for i, (calls, row_ids) in enumerate(zip(nfe.tolist(), ids.tolist(), strict=True))
    ]
    return Cell(measured.row, [{"model": model, "round": round, **one} for one in samples], measured.scores)


def check_samples(samples: Samples, scores: bool, retokenise: bool = True) -> None:
    """See before anything is loaded that the samples of a file can be measured as one. scores: is there a scorer?

    Raises UsageError when its rows are of several requests, or one is there twice; for ids to be scored as they are,
    since the file does not carry the tokenizer they are of; and for texts without ids where there is no scorer.
    """
    rows, path = samples.rows, samples.path
    if not retokenise:
        raise UsageError(f"--no-retokenise: {path} does not carry the tokenizer of its ids; name the model instead")
    if samples.ids is None and not scores:
        raise UsageError(f"--scorer none: {path} holds texts without token ids; a scorer's tokens are needed")
    for key in ("model", "weights_sha256", "round", "steps", "seed", "template", "protocol"):
        if any(row.get(key) != rows[0].get(key) for row in rows):
            raise UsageError(f"{path}: holds samples that differ in {key}; measure them apart")
    numbers = [row["row"] for row in rows if row.get("row") is not None]
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"{path}: holds a row twice; every sample must be another row")


def measure_file(samples: Samples, scorer: Scorer | None, seed: int, scoring: Scoring = PLAIN) -> dict[str, Any]:
    """Measure the samples of a file, which carries their protocol. Raises UsageError as `check_samples`."""
    check_samples(samples, scorer is not None, scoring.retokenise)
    rows = samples.rows
    protocol = replace(protocol_of_dict(rows[0].get("protocol") or {}), borders=samples.borders)
    nfe = [row["nfe"] for row in rows if row.get("nfe") is not None]
    return measure(
        samples.ids,
        samples.texts,
        scorer,
        protocol,
        model=rows[0].get("model") or samples.path.stem,
        steps=rows[0].get("steps"),
        nfe=sum(nfe) / len(nfe) if nfe else None,
        scoring=scoring,
        seed=seed,
    ).row


def held_out_rows(
    folder: Path,
    num: int,
    length: int | None,
    seed: int,
    scorer: Scorer | None,
    scoring: Scoring = PLAIN,
    language: str | None = None,
) -> list[dict[str, Any]]:
    """Two reference rows: held-out text as it is (`text`) and with its words in random order (`shuffled`).

    folder: prepared data; the rows are spread evenly over its held-out documents. language: the known language (of
    LANGUAGES) that it is of, whose truth then judges both rows: what the first differs by is the floor.
    """
    loader = open_loader(folder, "valid", 1, length)
    tokenizer = load_tokenizer(folder)
    _check_scorer(scoring, scorer, tokenizer)
    ids = spread_rows(loader, num).tolist()
    writer = Writer(tokenizer, loader.eos_id, scoring.borders)
    texts = [writer.documents(row) for row in ids]
    frame = True if loader.frame else None
    protocol = Protocol(borders=scoring.borders, length=loader.length, frame=frame, seed=seed)
    mixed = shuffled(texts, seed)
    mixed_ids = [writer.ids(documents) for documents in mixed]
    rows = []
    for name, row_ids, row_texts in (("text", ids, texts), ("shuffled", mixed_ids, mixed)):
        extra = truth_metrics(torch.tensor(row_ids), LANGUAGES[language](), seed=seed) if language else None
        rows.append(
            measure(row_ids, row_texts, scorer, protocol, model=name, scoring=scoring, extra=extra, seed=seed).row
        )
    return rows


def control_rows(
    folder: Path,
    num: int,
    length: int | None,
    seed: int,
    scorer: Scorer | None,
    target: float | None = None,
    scoring: Scoring = PLAIN,
) -> list[dict[str, Any]]:
    """The rows `control-periodic` and `control-topk`: nonsense of the held-out tokens of `folder`, prepared data.

    target: the mean sample entropy they are tuned to, nats; that of the held-out text itself when None. Their rows
    also hold `control_k`, the knob, and `entropy_target`.
    """
    loader = open_loader(folder, "valid", 1, length)
    tokenizer = load_tokenizer(folder)
    _check_scorer(scoring, scorer, tokenizer)
    writer = Writer(tokenizer, loader.eos_id, scoring.borders)
    aim = sample_entropy(spread_rows(loader, num)) if target is None else target
    frame = True if loader.frame else None
    protocol = Protocol(borders=scoring.borders, length=loader.length, frame=frame, seed=seed)
    rows = []
    for name, control in CONTROLS.items():
        found = tuned(control, loader.stream(), aim, num, spread_rows(loader, 1).shape[1], seed)
        texts = [writer.documents(row) for row in found.ids.tolist()]
        extra = {"control_k": found.k, "entropy_target": aim}
        rows.append(
            measure(found.ids, texts, scorer, protocol, model=name, scoring=scoring, extra=extra, seed=seed).row
        )
    return rows


def held_out_reference(
    folder: Path, name: str, num: int, length: int | None, seed: int, scorer: Scorer, borders: Borders = "kept"
) -> Reference:
    """Real text to compare samples with: at most `num` held-out rows of `folder`, prepared data.

    They lie between those of `held_out_rows`, so that real text is not compared with itself where there is enough.
    """
    loader = open_loader(folder, "valid", 1, length)
    writer = Writer(load_tokenizer(folder), loader.eos_id, borders)
    ids = spread_rows(loader, 2 * num)[1::2].tolist()
    if len(ids) < 4:
        raise UsageError(
            f"--reference {name}: gives {len(ids)} held-out rows at that --length and --num; 4 or more are needed"
        )
    return reference_of(name, [writer.documents(row) for row in ids], scorer, seed)


def _check_scorer(scoring: Scoring, scorer: Scorer | None, tokenizer: Tokenizer) -> None:
    if scorer is not None and scoring.retokenise and scoring.borders == "kept" and scorer.end_id is None:
        raise UsageError(
            f"--borders kept: the scorer {scorer.name} has no end-of-text token to read between documents; give "
            "--borders dropped, which lets them run together, or another scorer"
        )
    if scorer is not None and not scoring.retokenise and not same_vocabulary(scorer, tokenizer.get_vocab()):
        raise UsageError(
            f"--no-retokenise: the scorer {scorer.name} has another vocabulary than the text's tokens, which it can "
            "only read as text; leave the option out, or name a scorer with the same tokenizer"
        )
