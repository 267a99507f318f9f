"""`mcd eval`: measure samples of a model or of a file, held-out text, controls, or how likely a model finds text."""

import shlex
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mcd.cli.arguments import check_out, naming, parse, set_threads, show_dry_run
from mcd.cli.eval_options import SCORED, EvalArgs, check, idle_options, kind_of_source, scores_likelihood
from mcd.cli.idle_options import refuse_idle
from mcd.cli.metrics_table import print_rows
from mcd.cli.shapes import shapes_of_model
from mcd.errors import DataError, UsageError
from mcd.eval.laboratory.metrics_file import read_metrics, write_metrics
from mcd.progress import progress_bar
from mcd.sampler.choice import check_process, fitted, idle_in_drawing
from mcd.training.ranks import rank

VOCAB_SIZE = 4096
"""Vocabulary of the BPE that cuts sotu into rows without a model's tokenizer: figures depend on it."""


def main(argv: list[str]) -> int:
    args = parse(EvalArgs, argv, "eval")
    check(args, argv)
    kind = kind_of_source(args)
    refuse_idle(argv, idle_options(args, kind, argv))
    sampler = args.sampling.sampler_for(args.source if kind == "model" else None, argv)
    refuse_idle(argv, idle_in_drawing(sampler))
    work = Evaluation(args, argv, [replace(sampler, steps=steps) for steps in args.steps])
    check_out(args.out)
    read_metrics(args.out)
    if args.dry_run:
        return show_dry_run(
            {
                "source": args.source,
                "scoring": asdict(args.scoring),
                **({"likelihood": asdict(args.likelihood)} if args.likelihood.likelihood else {}),
                "samplers": [s.protocol() | {"steps": s.steps} for s in work.samplers],
                **({"dtype": args.sampling.dtype} if args.sampling.dtype != "float32" else {}),
                **(shapes_of_model(args.source) if kind == "model" else {}),
            }
        )
    set_threads(args.sampling.threads)
    rows = getattr(work, kind)()
    if rank() == 0:
        write_metrics(args.out, rows, f"mcd eval {shlex.join(argv)}")
        print_rows(rows)
    return 0


class Evaluation:
    """The work of one command line: a method for each kind of SOURCE gives the rows of metrics.json.

    Whatever is refused is refused before a scorer is loaded.
    """

    def __init__(self, args: EvalArgs, argv: list[str], samplers: list[Any]):
        self.args, self.argv, self.samplers = args, argv, samplers
        self.data = args.out.parent / "data"

    def control(self) -> list[dict[str, Any]]:
        """Nonsense of the tokens of --reference."""
        from mcd.data.languages.known import language_of_data
        from mcd.eval.laboratory.held_out import HeldOut

        args, length, reference = self.args, self.args.sampling.length, self.args.scoring.reference
        assert reference is not None
        if language_of_data(reference) is not None:
            raise UsageError(f"--reference {reference}: controls are made of text; this is a synthetic language")
        held_out = HeldOut(self._reference_folder(reference), length, args.seed, args.scoring.borders)
        return held_out.controls(args.num, self._scorer, self._scoring(length))

    def text(self) -> list[dict[str, Any]]:
        """Held-out text, and the same with its words shuffled."""
        from mcd.cli.data_option import prepared
        from mcd.data.languages.known import language_of_data
        from mcd.eval.laboratory.held_out import HeldOut

        args, length = self.args, self.args.sampling.length
        language = self._judge(language_of_data(args.source), length)
        held_out = HeldOut(
            prepared(args.source, self.data, vocab_size=VOCAB_SIZE), length, args.seed, args.scoring.borders
        )
        if language is not None:
            return held_out.text(args.num, None, self._plain(length), language)
        return held_out.text(args.num, self._scorer, self._scoring(length))

    def file(self) -> list[dict[str, Any]]:
        """The samples of a file."""
        from mcd.cli.data_option import print_notes
        from mcd.eval.laboratory.measure import check_samples, measure_file
        from mcd.eval.laboratory.samples_file import read_samples

        args = self.args
        samples = read_samples(Path(args.source), args.file.text_field, args.file.end_of_text)
        check_samples(samples, args.scoring.scorer != "none", args.scoring.retokenise)
        if samples.borders != "kept":
            print_notes(
                [
                    f"{args.source}: {number} of {len(samples.texts)} texts spell {name}, which is scored as letters; "
                    f"--end-of-text '{name}' makes it the end of a document"
                    for name, number in samples.spelled_ends().items()
                ]
            )
        scoring = self._scoring(args.sampling.length, borders=samples.borders or "kept")
        return [measure_file(samples, self._scorer, args.seed, scoring)]

    def model(self) -> list[dict[str, Any]]:
        """Samples of a model at each number of steps."""
        from mcd.data.tokenizer import tokenizer_of_model
        from mcd.eval.exact_denoiser import exact_denoiser, language_of_exact
        from mcd.eval.laboratory.measure import measure_model
        from mcd.eval.laboratory.shares import open_model
        from mcd.training.trained_on import language_of_model

        args, sampling = self.args, self.args.sampling
        with naming("SOURCE", args.source):
            exact = language_of_exact(args.source)
            if exact is not None and sampling.length is None:
                raise UsageError(f"--length: {args.source} makes rows of any length; say how many tokens")
            if exact is None:
                denoiser = open_model(args.source, sampling.weights, sampling.dtype)
            else:
                refuse_idle(
                    self.argv, dict.fromkeys(("--weights", "--dtype", "--frame"), f"{args.source} is no network")
                )
                denoiser = exact_denoiser(exact, sampling.length or 1)
        check_process(self.samplers[0], denoiser)
        length = sampling.length_for(denoiser)
        samplers = list(dict.fromkeys(fitted(sampler, denoiser, length) for sampler in self.samplers))
        frame = None
        if denoiser.folder is not None:
            frame = sampling.frame_for(denoiser, tokenizer_of_model(denoiser.folder, denoiser.config.tokens))
        language = self._judge(exact.name if exact is not None else language_of_model(denoiser.folder), length)
        tokenizer = None if denoiser.folder is None else denoiser.folder / "tokenizer.json"
        if tokenizer is None and args.scoring.copied_from is not None:
            raise UsageError(f"--copied-from: {args.source} was trained on no text; leave it out")
        scoring = self._scoring(length, tokenizer) if language is None and tokenizer else self._plain(length, tokenizer)
        scorer = None if language else self._scorer
        rows = []
        with progress_bar("eval") as update:
            for i, sampler in enumerate(samplers, 1):
                measured = measure_model(
                    denoiser,
                    sampler,
                    scorer,
                    args.num,
                    length,
                    args.seed,
                    model=args.source,
                    weights=sampling.weights,
                    scoring=scoring,
                    language=language,
                    frame=frame,
                )
                rows.append(measured.row)
                update(i / len(samplers), f"{sampler.steps} steps")
        return rows

    def likelihood(self) -> list[dict[str, Any]]:
        """How likely a model finds each text of --likelihood, and the scorer too where one is named."""
        from mcd.cli.likelihood import likelihood_rows
        from mcd.data.manifest import is_prepared
        from mcd.eval.laboratory.shares import open_model

        args, names = self.args, self.args.likelihood.likelihood
        if all(is_prepared(name) for name in names):
            refuse_idle(
                self.argv, dict.fromkeys(("--wrap", "--eos-token"), "data is prepared already, in rows of its own")
            )
        with naming("SOURCE", args.source):
            denoiser = open_model(args.source, args.sampling.weights, args.sampling.dtype)
        if denoiser.config.process == "locked":
            raise UsageError(
                f"{args.source}: maps noise to text, and has no likelihood that a bound could be of; eval its samples"
            )
        if denoiser.config.process == "autoregressive":
            refuse_idle(self.argv, {"--draws": "the likelihood of an autoregressive model is exact"})
        args.sampling.length_for(denoiser)
        scorer = (lambda: self._scorer) if scores_likelihood(args, self.argv) else None
        rows = []
        with progress_bar("eval") as update:
            for i, name in enumerate(names, 1):
                rows += likelihood_rows(denoiser, name, args, scorer)
                update(i / len(names), name)
        return rows

    @cached_property
    def _scorer(self) -> Any:
        from mcd.eval.laboratory.shares import in_shares
        from mcd.eval.scorer import load_scorer

        options = self.args.scoring
        return None if options.scorer == "none" else in_shares(load_scorer(options.scorer, options.scorer_precision))

    @cached_property
    def _features(self) -> Any:
        """By what texts are compared with a --reference."""
        from mcd.eval.features import load_minilm

        return load_minilm() if self.args.scoring.features == "minilm" else self._scorer

    def _scoring(self, length: int | None, tokenizer: Path | None = None, borders: Any = None) -> Any:
        """How samples of `length` tokens are scored, --reference among it. tokenizer: that of the model."""
        from mcd.cli.data_option import print_notes
        from mcd.data.manifest import read_manifest
        from mcd.eval.laboratory.held_out import HeldOut
        from mcd.eval.mauve import HAS_MAUVE

        args, options = self.args, self.args.scoring
        scoring = replace(self._plain(length, tokenizer), averaging=options.averaging, retokenise=options.retokenise)
        scoring = replace(scoring, borders=borders or options.borders)
        if options.reference is None or (options.scorer, options.features) == ("none", "scorer"):
            return scoring
        if not HAS_MAUVE:
            print_notes(["MAUVE is left out: mauve-text is not installed; pip install 'mcd-lm[mauve]'"])
        folder = self._reference_folder(options.reference, tokenizer, length)
        if length is not None and args.sampling.frame and read_manifest(folder)["frame"] is None:
            length -= 2  # tokens of text, as the samples have
        held_out = HeldOut(folder, length, args.seed, scoring.borders)
        return replace(scoring, reference=held_out.reference(options.reference, args.num, self._features))

    def _plain(self, length: int | None, tokenizer: Path | None = None) -> Any:
        """How samples are measured that no scorer reads, the text of --copied-from among it."""
        from mcd.data.manifest import read_manifest
        from mcd.eval.laboratory.held_out import HeldOut
        from mcd.eval.metrics import Scoring

        args, name = self.args, self.args.scoring.copied_from
        scoring = Scoring(borders=args.scoring.borders)
        if name is None:
            return scoring
        folder = self._reference_folder(name, tokenizer, length, "--copied-from")
        if length is not None and args.sampling.frame and read_manifest(folder)["frame"] is None:
            length -= 2  # tokens of text, as the samples have
        held_out = HeldOut(folder, length, args.seed, scoring.borders)
        return replace(scoring, training=held_out.training(name, args.num))

    def _reference_folder(
        self, name: str, tokenizer: Path | None = None, length: int | None = None, option: str = "--reference"
    ) -> Path:
        """The prepared folder of an `option`, as a rule of --reference.

        A file may be small: without a model's tokenizer it is read by the bundled one, since it may not support a
        vocabulary of its own.
        """
        from mcd.checkpoints.locate import locate
        from mcd.cli.data_option import prepared
        from mcd.data.manifest import is_prepared
        from mcd.data.prepare.corpus import BUNDLED

        if is_prepared(name):
            tokenizer = None
        elif name not in BUNDLED:
            tokenizer = tokenizer or locate("demo") / "tokenizer.json"
        try:
            row_length = length or self.args.sampling.length
            return prepared(name, self.data, tokenizer, row_length, vocab_size=VOCAB_SIZE)
        except (DataError, UsageError) as error:
            raise UsageError(str(error).replace("--data", option, 1)) from None

    def _judge(self, language: str | None, length: int | None) -> str | None:
        """The synthetic language that measures samples by its exact likelihood: a scorer or a --reference cannot
        score its symbols.

        Raises UsageError for options that this leaves without a meaning.
        """
        if language is None:
            return None
        if self.args.scoring.reference is not None:
            raise UsageError(
                f"--reference: models of {language}, and its text, are measured by its exact likelihood; leave it out"
            )
        if length is not None and length < 3:
            raise UsageError(f"--length {length}: a synthetic language is measured by trigrams; must be at least 3")
        scorer = () if self.args.scoring.scorer == "none" else ("--scorer",)
        refuse_idle(
            self.argv,
            dict.fromkeys((*scorer, *SCORED), f"{language} is measured by its exact likelihood, not by a scorer"),
        )
        return language
