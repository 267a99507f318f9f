"""The options of `mcd eval`, what its SOURCE may be, and which options mean something for which source."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from annotated_types import Ge, Gt, Le

from mcd.cli.arguments import Flat
from mcd.cli.idle_options import typed
from mcd.cli.sampling_options import DRAWING, SamplingOptions
from mcd.data.text import Borders
from mcd.errors import UsageError
from mcd.eval.laboratory.samples_file import is_samples
from mcd.options import Count, Options, Seed, Steps

CONTROL = "control"
"""The source that is no text and no model: nonsense of the reference's tokens."""
SCORED = ("--scorer-precision", "--averaging", "--retokenise", "--borders")
"""Options that have a meaning only with a scorer."""


@dataclass(frozen=True)
class ScoringOptions(Options):
    """How samples are scored."""

    scorer: str = "smollm2"
    """smollm2 (offline), none, or a folder or hub id of a causal language model such as gpt2-large. With --likelihood
    it must be named, and its own likelihood of the same text is measured too."""
    scorer_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the scorer; bf16 is about twice as fast. It is part of the protocol."""
    averaging: Literal["pooled", "per-sample"] = "pooled"
    """How the losses of single tokens become one Gen PPL. pooled: their mean over all tokens of all samples, as MDLM
    reports it. per-sample: the mean within each sample, and then the mean over samples, as SDTT reports it. Choose the
    one of the paper that you compare with. The file holds both; this one has the interval and is shown."""
    retokenise: bool = True
    """Let the scorer tokenise the text again (MDLM); otherwise it scores the model's ids unchanged (SDTT), which needs
    a scorer of the same vocabulary."""
    borders: Borders = "kept"
    """What the scorer reads at the end of a document in a row. kept: its own end-of-text token (as in MDLM's public
    code, which leaves the token in the text); dropped: nothing, so documents run together."""
    reference: str | None = None
    """Real text with which samples are compared by energy distance and MAUVE: sotu, a prepared folder, or a file;
    --num held-out rows of it are used. MAUVE needs the extra `mauve`."""
    copied_from: str | None = None
    """Look for the samples in the text that the model was trained on: sotu, a prepared folder, or a file. Reported are
    the share of their 8-grams and the longest runs of tokens that occur in its training part, beside those of --num
    held-out rows of it."""
    features: Literal["scorer", "minilm"] = "scorer"
    """By what samples are compared with the reference: the scorer's mean hidden states, or the embeddings of
    all-MiniLM-L6-v2, a sentence encoder that is unrelated to the scorer (offline; see `mcd doctor`)."""


@dataclass(frozen=True)
class FileOptions(Options):
    """How a file of samples that others wrote is read."""

    text_field: str = "text"
    """Field with the text of a sample, or in a .json object the field with the list of samples."""
    end_of_text: str | None = None
    """Letters that mark the end of a document in texts from other programs, such as '<|endoftext|>'; by default such
    letters are ordinary text."""


@dataclass(frozen=True)
class LikelihoodOptions(Options):
    """Measure the bound on given text instead of samples, per token and per byte (the zero-shot perplexity, if the
    model was not trained on this kind of text)."""

    likelihood: tuple[str, ...] = ()
    """Texts: sotu or a prepared folder (its held-out part), a file (all of it), ptb, wikitext103, lm1b, lambada,
    ag_news, pubmed, arxiv (from the hub; NAME=FILE uses your own copy); for models of a synthetic language, that
    language (markov, hmm, grammar, english; new rows). At most --num rows of each are used."""
    draws: Annotated[int, Ge(1), Le(1000)] = 4
    """Draws of the bound for each row; more draws make the error smaller."""
    wrap: bool = False
    """Rows of text begin and end with the end-of-text token, as in MDLM's figures."""
    eos_token: str | None = None
    """The name of the token that ends a text, for models whose files name none or another."""
    infill: tuple[Annotated[float, Gt(0), Le(1)], ...] = ()
    """Shares of the words of each row, such as 0.1 0.2 0.5. For each, that many words are masked, the model fills them
    in by one network call, the likeliest token everywhere, and the share of restored words is reported. It needs no
    scorer, and compares models with different tokenizers. For masked models."""


@dataclass(frozen=True)
class EvalArgs(Options):
    """Measure samples by Gen PPL, entropy and diversity, with 95 % bootstrap intervals; or the likelihood of text.

    SOURCE is a model (sampled at each of --steps), a file of samples, or `sotu` or a prepared data folder, whose
    held-out text gives the reference rows (unchanged, and with its words shuffled). The model exact:LANGUAGE is the
    exact posterior of a synthetic language: no network predicts better. A file is a .jsonl written by `mcd sample`, or
    text from another program: a .jsonl or a .json list, of strings or of objects with a `text`, or a .txt whose samples
    are separated by blank lines. Without token ids, entropy and repetition are computed over the scorer's tokens.
    Models and data of a synthetic language (markov, hmm, grammar, english) are measured by its exact likelihood,
    without a scorer. With --reference, `control` makes two kinds of nonsense from that text's tokens, as varied as the
    text, to show what Gen PPL cannot see.

    Examples:
      mcd eval demo --steps 8 32 128 --num 64 --out metrics.json
      mcd eval demo --reference sotu --scorer-precision bf16 --out metrics.json
      mcd eval demo --reference sotu --features minilm --out metrics.json
      mcd eval demo --copied-from sotu --scorer none --out metrics.json
      mcd eval student.jsonl --scorer gpt2-large --averaging per-sample --out metrics.json
      mcd eval theirs.json --text-field generated_seqs --end-of-text '<|endoftext|>' --out metrics.json
      mcd eval sotu --num 64 --out reference.json
      mcd eval control --reference sotu --out control.json
      mcd eval demo --likelihood sotu letters.txt --num 256 --draws 8 --out likelihood.json
      mcd eval demo --likelihood sotu --scorer smollm2 --num 256 --out compared.json
      mcd eval demo --likelihood sotu --infill 0.1 0.2 0.5 --out words.json
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A model (a folder, a hub id, demo), a file of samples (.jsonl, .json, .txt), held-out text (sotu, a language, a
    prepared folder), or control."""
    out: Path
    """metrics.json to write."""
    steps: tuple[Steps, ...] = (8, 32)
    """Numbers of steps."""
    num: Count = 64
    """Samples per number of steps, or rows of a text."""
    seed: Seed = 0
    """Seed of samples and intervals."""
    scoring: Flat[ScoringOptions] = ScoringOptions()
    file: Flat[FileOptions] = FileOptions()
    likelihood: Flat[LikelihoodOptions] = LikelihoodOptions()
    sampling: Flat[SamplingOptions] = SamplingOptions()
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def kind_of_source(args: EvalArgs) -> str:
    """The kind of SOURCE: control, text, file or model; or likelihood, if a model scores text.

    Raises UsageError for a file that does not exist.
    """
    from mcd.data.languages.known import LANGUAGES
    from mcd.data.manifest import is_prepared
    from mcd.data.prepare.corpus import BUNDLED

    if args.likelihood.likelihood:
        return "likelihood"
    if args.source == CONTROL:
        return "control"
    if args.source in (*BUNDLED, *LANGUAGES) or is_prepared(args.source):
        return "text"
    if not is_samples(Path(args.source)):
        return "model"
    if not Path(args.source).exists():
        raise UsageError(f"{args.source}: no such file")
    return "file"


def scores_likelihood(args: EvalArgs, argv: list[str]) -> bool:
    """Whether a scorer is named next to --likelihood, so that its own likelihood is measured too."""
    return "--scorer" in typed(argv) and args.scoring.scorer != "none"


def idle_options(args: EvalArgs, kind: str, argv: list[str]) -> dict[str, str]:
    """The options that would do nothing for this kind of source, with the reason (`refuse_idle`)."""
    why = {
        "likelihood": "--likelihood scores given text, and draws none",
        "control": "controls are drawn from no model",
        "text": f"{args.source} is text, and nothing is drawn from a model",
        "file": f"the samples of {args.source} are drawn already, and the file says how",
    }
    idle = {} if kind == "model" else dict.fromkeys(DRAWING, why[kind])
    if kind != "file":
        idle |= dict.fromkeys(("--text-field", "--end-of-text"), "SOURCE is no file of samples")
    elif args.source.endswith(".txt"):
        idle["--text-field"] = "a .txt has no fields"
    if kind == "likelihood":
        idle |= dict.fromkeys(
            ("--reference", "--features", "--copied-from", "--averaging", "--retokenise"),
            "--likelihood compares no samples",
        )
        if scores_likelihood(args, argv):
            return idle
        return idle | dict.fromkeys(("--scorer", *SCORED), "--likelihood has no scorer but one that is named")
    idle |= dict.fromkeys(("--draws", "--wrap", "--eos-token", "--infill"), "it is an option of --likelihood")
    if args.scoring.reference is None:
        idle["--features"] = "there is no --reference to compare with"
    if args.scoring.scorer == "none":
        idle |= dict.fromkeys(SCORED, "there is no scorer")
    elif not args.scoring.retokenise:
        idle["--borders"] = "ids are scored unchanged, the end of text among them"
    if kind != "model":
        idle |= dict.fromkeys(("--weights", "--dtype", "--frame"), why[kind])
    if kind == "file":
        idle["--borders"] = f"the texts of {args.source} are scored as they were written"
        if args.scoring.reference is None and args.scoring.copied_from is None:
            idle |= dict.fromkeys(("--num", "--length"), f"all samples of {args.source} are measured, whole")
    return idle


def check(args: EvalArgs, argv: list[str]) -> None:
    """Raise UsageError for options that make no sense together."""
    if "--likelihood" in argv and not args.likelihood.likelihood:
        raise UsageError("--likelihood: names no text; give sotu, a file, a prepared folder or another of its --help")
    if not args.steps:
        raise UsageError("--steps: names no number of steps; give one or more, such as --steps 8 32")
    if args.source == CONTROL and not args.likelihood.likelihood and args.scoring.reference is None:
        raise UsageError("control is made of held-out text; name it: --reference sotu, a file or a prepared folder")
    compares = args.scoring.reference is not None and (args.source != CONTROL or "--features" in typed(argv))
    if compares and args.scoring.scorer == "none" and args.scoring.features == "scorer":
        raise UsageError(
            "--reference: texts are compared by the scorer's features; leave out --scorer none, or give "
            "--features minilm"
        )
