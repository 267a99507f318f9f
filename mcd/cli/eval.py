"""`mcd eval`: measure samples of a model or of a file, held-out text, controls, or how likely a model finds text."""

import functools
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mcd.cli.arguments import check_out, check_seed, parse, set_threads, show_dry_run
from mcd.cli.eval_options import CONTROL, SCORED, EvalArgs, idle_options, kind_of_source
from mcd.cli.likelihood import KEYS as LIKELIHOOD_KEYS
from mcd.cli.metrics_table import print_rows
from mcd.cli.sampling_options import check_process, fitted, idle_in_drawing
from mcd.cli.typed_options import refuse_idle
from mcd.errors import UsageError
from mcd.eval.laboratory.metrics_file import is_row
from mcd.files import JSONError, read_json

VOCAB_SIZE = 4096
"""Of the BPE that cuts a text into rows where no model's tokenizer does: figures depend on it."""

COLUMNS = {
    "model",
    "round",
    "steps",
    "nfe",
    "gen_ppl",
    "gen_ppl_lo",
    "gen_ppl_hi",
    "entropy",
    "repetition_4",
    "distinct_2",
}
"""Keys of a row of metrics.json that the table of samples shows."""


def main(argv: list[str]) -> int:
    args = parse(EvalArgs, argv, "eval")
    if "--likelihood" in argv and not args.likelihood.likelihood:
        raise UsageError("--likelihood: names no text; give sotu, a file, a prepared folder or another of its --help")
    kind = kind_of_source(args)
    refuse_idle(argv, idle_options(args, kind))
    sampler = args.sampling.sampler_for(args.source if kind == "model" else None, argv)
    refuse_idle(argv, idle_in_drawing(sampler))
    _check(args)
    samplers = [replace(sampler, steps=steps) for steps in args.steps]
    if args.dry_run:
        return show_dry_run(
            {
                "source": args.source,
                "scoring": asdict(args.scoring),
                **({"likelihood": asdict(args.likelihood)} if args.likelihood.likelihood else {}),
                "samplers": [s.protocol() | {"steps": s.steps} for s in samplers],
            }
        )
    check_out(args.out)
    read_metrics(args.out)
    set_threads(args.sampling.threads)
    rows = _likelihoods(args, argv) if kind == "likelihood" else _rows(args, argv, kind, samplers)
    from mcd.train.ranks import rank

    if rank() == 0:
        write_metrics(args.out, rows, f"mcd eval {shlex.join(argv)}")
        print_rows(rows)
    return 0


def _check(args: Any) -> None:
    """Raise UsageError for options that make no sense."""
    if args.num < 1:
        raise UsageError(f"--num {args.num}: must be at least 1")
    if not args.steps:
        raise UsageError("--steps: names no number of steps; give one or more, such as --steps 8 32")
    check_seed(args.seed)
    if not 1 <= args.likelihood.draws <= 1000:
        raise UsageError(f"--draws {args.likelihood.draws}: must be 1 to 1000")
    if args.source == CONTROL and not args.likelihood.likelihood and args.scoring.reference is None:
        raise UsageError("control is made of held-out text; name it: --reference sotu, a file or a prepared folder")
    if args.scoring.reference is not None and args.scoring.scorer == "none" and args.source != CONTROL:
        raise UsageError("--reference: texts are compared by the scorer's features; leave out --scorer none")


def _rows(args: Any, argv: list[str], kind: str, samplers: list[Any]) -> list[dict[str, Any]]:
    from mcd.cli.data_option import prepared
    from mcd.data.languages.known import language_of_data
    from mcd.data.manifest import read_manifest
    from mcd.data.tokenizer import tokenizer_of_model
    from mcd.eval.laboratory.measure import (
        check_samples,
        control_rows,
        held_out_reference,
        held_out_rows,
        measure_file,
        measure_model,
    )
    from mcd.eval.laboratory.samples_file import read_samples
    from mcd.eval.laboratory.shares import in_shares, open_model
    from mcd.eval.mauve import HAS_MAUVE
    from mcd.eval.metrics import Scoring
    from mcd.eval.scorer import load_scorer
    from mcd.progress import progress_bar
    from mcd.train.trained_on import language_of_model

    options, path, cache = args.scoring, Path(args.source), args.out.parent / "data"
    scoring = Scoring(options.averaging, options.retokenise, borders=options.borders)

    @functools.cache
    def scorer() -> Any:
        """The scorer asked for, loaded when all that is refused has been."""
        if options.scorer == "none":
            return None
        return in_shares(load_scorer(options.scorer, options.scorer_precision))

    def compared(length: int | None, tokenizer: Path | None = None, scoring: Scoring = scoring) -> Scoring:
        """The scoring with --reference, if there is one."""
        if options.reference is None or options.scorer == "none":
            return scoring
        if not HAS_MAUVE:
            print("MAUVE is left out: mauve-text is not installed; pip install 'mcd-lm[mauve]'", file=sys.stderr)
        folder = _prepared(options.reference, cache, tokenizer)
        if length is not None and args.sampling.frame and read_manifest(folder)["frame"] is None:
            length -= 2  # of text, as the samples have
        real = held_out_reference(folder, options.reference, args.num, length, args.seed, scorer(), scoring.borders)
        return replace(scoring, reference=real)

    length = args.sampling.length
    if kind == "control":
        if language_of_data(options.reference) is not None:
            raise UsageError(f"--reference {options.reference}: controls are made of text; this is a known language")
        folder = _prepared(options.reference, cache)
        return control_rows(folder, args.num, length, args.seed, scorer(), scoring=compared(length))
    if kind == "text":
        language = _judge(args, argv, language_of_data(args.source), length)
        folder = prepared(args.source, cache, vocab_size=VOCAB_SIZE)
        if language is not None:
            return held_out_rows(folder, args.num, length, args.seed, None, language=language)
        return held_out_rows(folder, args.num, length, args.seed, scorer(), compared(length))
    if kind == "file":
        samples = read_samples(path, args.file.text_field, args.file.end_of_text)
        check_samples(samples, options.scorer != "none", options.retokenise)  # its faults come before the scorer's
        for name, number in ({} if samples.borders == "kept" else samples.spelled_ends()).items():
            print(
                f"{path}: {number} of {len(samples.texts)} texts spell {name}, which is scored as letters; "
                f"--end-of-text '{name}' makes it the end of a document",
                file=sys.stderr,
            )
        scoring = replace(scoring, borders=samples.borders or "kept")
        return [measure_file(samples, scorer(), args.seed, compared(length, scoring=scoring))]

    denoiser = open_model(args.source, args.sampling.weights)
    assert denoiser.folder is not None
    check_process(samplers[0], denoiser)
    length = args.sampling.length_for(denoiser)
    samplers = list(dict.fromkeys(fitted(sampler, denoiser, length) for sampler in samplers))
    frame = args.sampling.frame_for(denoiser, tokenizer_of_model(denoiser.folder, denoiser.config.tokens))
    weights, language = args.sampling.weights, _judge(args, argv, language_of_model(denoiser.folder), length)
    judge = None
    if language is None:
        scoring, judge = compared(length, denoiser.folder / "tokenizer.json"), scorer()
    rows = []
    with progress_bar("eval") as update:
        for i, sampler in enumerate(samplers):
            cell = measure_model(
                denoiser,
                sampler,
                judge,
                args.num,
                length,
                args.seed,
                weights,
                args.source,
                scoring=scoring,
                language=language,
                frame=frame,
            )
            rows.append(cell.row)
            update((i + 1) / len(samplers), f"{sampler.steps} steps")
    return rows


def _judge(args: Any, argv: list[str], language: str | None, length: int | None) -> str | None:
    """The known language whose truth judges: its symbols are no English for a scorer, nor for --reference.

    Raises UsageError for options that this leaves without a meaning.
    """
    if language is not None and args.scoring.reference is not None:
        raise UsageError(f"--reference: models of {language}, and its text, are judged by its truth; leave it out")
    if language is not None and length is not None and length < 3:
        raise UsageError(f"--length {length}: a known language is judged by trigrams; must be at least 3")
    if language is not None:
        why = f"{language} is judged by its truth, without a scorer"
        scorer = () if args.scoring.scorer == "none" else ("--scorer",)
        refuse_idle(argv, dict.fromkeys((*scorer, *SCORED), why))
    return language


def _prepared(reference: str, cache: Path, tokenizer: Path | None = None) -> Path:
    """The prepared folder of --reference: tokens of a model's where it is text, its own where it is prepared."""
    from mcd.cli.data_option import prepared
    from mcd.data.manifest import MANIFEST
    from mcd.errors import DataError

    try:
        tokenizer = None if (Path(reference) / MANIFEST).is_file() else tokenizer
        return prepared(reference, cache, tokenizer, vocab_size=VOCAB_SIZE)
    except (DataError, UsageError) as error:
        raise UsageError(str(error).replace("--data", "--reference", 1)) from None


def _likelihoods(args: Any, argv: list[str]) -> list[dict[str, Any]]:
    from mcd.cli.likelihood import likelihood_row
    from mcd.data.manifest import MANIFEST
    from mcd.eval.laboratory.shares import open_model
    from mcd.progress import progress_bar

    names = args.likelihood.likelihood
    if all((Path(name) / MANIFEST).is_file() for name in names):
        refuse_idle(argv, dict.fromkeys(("--wrap", "--eos-token"), "data is prepared already, its rows as they are"))
    denoiser = open_model(args.source, args.sampling.weights)
    if denoiser.config.process == "autoregressive":
        refuse_idle(argv, {"--draws": "the likelihood of an autoregressive model is exact"})
    length = args.sampling.length_for(denoiser)
    rows = []
    with progress_bar("eval") as update:
        for i, name in enumerate(names):
            rows.append(
                likelihood_row(
                    denoiser,
                    name,
                    args.likelihood,
                    args.num,
                    length,
                    args.seed,
                    args.sampling.weights,
                    args.source,
                    frame=args.sampling.frame,
                )
            )
            update((i + 1) / len(names), name)
    return rows


def write_metrics(path: Path, rows: list[dict[str, Any]], command: str) -> None:
    """Write `{"command": what was typed, "rows": [...]}` by way of a temporary file."""
    from mcd.files import write_json

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"command": command, "rows": rows})


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.json that is to be written anew; none where there is no file.

    Raises UsageError when it is another file, which is then not to be lost.
    """
    if not path.exists():
        return []
    try:
        rows = read_json(path, strict=False)["rows"]
    except (JSONError, KeyError, TypeError):
        rows = None
    if not isinstance(rows, list) or not all(_known(row) for row in rows):
        raise UsageError(f"--out {path}: is there, and is damaged or no metrics.json of ours; name a new file")
    return rows


def _known(row: Any) -> bool:
    """Is it a row of samples, or one of likelihood?"""
    return is_row(row) and (set(row) >= COLUMNS or set(row) >= LIKELIHOOD_KEYS)
