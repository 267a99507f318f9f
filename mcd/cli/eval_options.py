"""The options of `mcd eval`, what its SOURCE may be, and which options mean something for which source."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mcd.cli.arguments import Flat
from mcd.cli.likelihood import LikelihoodOptions
from mcd.cli.sampling_options import DRAWING, SamplingOptions
from mcd.errors import UsageError
from mcd.eval.laboratory.samples_file import is_samples
from mcd.options import Options, Steps

CONTROL = "control"
"""The source that is no text and no model: nonsense of the reference's tokens."""
SCORED = ("--scorer-precision", "--averaging", "--retokenise", "--borders")
"""Options that only a scorer gives a meaning."""
_FILE_ONLY = dict.fromkeys(("--text-field", "--end-of-text"), "SOURCE is no file of samples")


@dataclass(frozen=True)
class ScoringOptions:
    """How samples are scored."""

    scorer: str = "smollm2"
    """smollm2 (offline), none, or a folder or hub id of a causal language model such as gpt2-large."""
    scorer_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Numbers the scorer computes with; bf16 is about twice as fast, and part of the protocol."""
    averaging: Literal["pooled", "per-sample"] = "pooled"
    """The main Gen PPL: over all tokens (MDLM), or the mean over samples of their own means (SDTT). Both are kept."""
    retokenise: bool = True
    """Let the scorer tokenise the text anew (MDLM); else it scores the model's ids as they are (SDTT), which takes a
    scorer of the same vocabulary."""
    borders: Literal["kept", "dropped"] = "kept"
    """Where a document ends in a row: kept, the scorer reads its own end of text there (MDLM, whose public code leaves
    the token in the text); or dropped, documents run together."""
    reference: str | None = None
    """Real text to compare samples with, by energy distance and MAUVE: sotu, a prepared folder, or a file, of which
    --num held-out rows are taken. MAUVE needs the extra `mauve`."""


@dataclass(frozen=True)
class FileOptions:
    """How a file of samples that others wrote is read."""

    text_field: str = "text"
    """Field that holds the text of a sample, or in a .json object the list of them."""
    end_of_text: str | None = None
    """What stands in texts of others where a document ends, such as '<|endoftext|>'; without it, it is letters."""


@dataclass(frozen=True)
class EvalArgs(Options):
    """Measure Gen PPL, entropy, repetition, distinct n-grams and self-BLEU, with 95 % bootstrap intervals, each with
    its protocol; or the likelihood of given text.

    SOURCE is a model (sampled at each of --steps), a file of samples, or `sotu` or a prepared data folder for its held-
    out text (the reference rows: as it is, and with its words shuffled). A file is a .jsonl written by `mcd sample`, or
    text of others: a .jsonl or a .json list, of strings or of objects with a `text`, or a .txt whose samples are parted
    by blank lines; without token ids, entropy and repetition are over the scorer's tokens. Models and data of a known
    language (markov, hmm, grammar) are judged by its truth, without a scorer. `control` with --reference makes two
    kinds of nonsense of that text's tokens, as varied as the text, to show what Gen PPL cannot see.

    Examples:
      mcd eval demo --steps 8 32 128 --num 64 --out metrics.json
      mcd eval demo --reference sotu --scorer-precision bf16 --out metrics.json
      mcd eval student.jsonl --scorer gpt2-large --averaging per-sample --out metrics.json
      mcd eval theirs.json --text-field generated_seqs --end-of-text '<|endoftext|>' --out metrics.json
      mcd eval sotu --num 64 --out reference.json
      mcd eval control --reference sotu --out control.json
      mcd eval demo --likelihood sotu letters.txt --num 256 --draws 8 --out likelihood.json
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A model (a folder, a hub id, demo), a file of samples (.jsonl, .json, .txt), held-out text (sotu, a language, a
    prepared folder), or control."""
    out: Path
    """metrics.json to write."""
    steps: tuple[Steps, ...] = (8, 32)
    """Numbers of steps."""
    num: int = 64
    """Samples a cell, rows of a text."""
    seed: int = 0
    """Of samples and intervals."""
    scoring: ScoringOptions = ScoringOptions()
    file: Flat[FileOptions] = FileOptions()
    likelihood: LikelihoodOptions = LikelihoodOptions()
    sampling: SamplingOptions = SamplingOptions()
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def kind_of_source(args: Any) -> str:
    """What SOURCE is: control, text, file or model; or likelihood, where text is judged by a model.

    Raises UsageError for a file that is not there.
    """
    from mcd.data.languages.known import LANGUAGES
    from mcd.data.manifest import MANIFEST
    from mcd.data.prepare.corpus import BUNDLED

    if args.likelihood.likelihood:
        return "likelihood"
    if args.source == CONTROL:
        return "control"
    if args.source in (*BUNDLED, *LANGUAGES) or (Path(args.source) / MANIFEST).is_file():
        return "text"
    if not is_samples(Path(args.source)):
        return "model"
    if not Path(args.source).exists():
        raise UsageError(f"{args.source}: no such file")
    return "file"


def idle_options(args: Any, kind: str) -> dict[str, str]:
    """The options that would do nothing for this kind of source, with the reason (`refuse_idle`)."""
    told = {
        "likelihood": "--likelihood judges text that is there, and draws none",
        "control": "controls are drawn from no model",
        "text": f"{args.source} is text, and nothing is drawn from a model",
        "file": f"{args.source} holds samples that are drawn already, and says how",
    }
    idle = {} if kind == "model" else dict.fromkeys(DRAWING, told[kind])
    if kind == "likelihood":
        idle |= dict.fromkeys(("--scorer", "--reference", *SCORED), "--likelihood needs no scorer")
        return idle | _FILE_ONLY
    idle |= dict.fromkeys(("--draws", "--wrap", "--eos-token"), "it is an option of --likelihood")
    if args.scoring.scorer == "none":
        idle |= dict.fromkeys(SCORED, "there is no scorer")
    elif not args.scoring.retokenise:
        idle["--borders"] = "ids are scored as they are, the end of text among them"
    if kind != "model":
        idle |= dict.fromkeys(("--weights", "--frame"), told[kind])
    if kind != "file":
        return idle | _FILE_ONLY
    idle["--borders"] = f"{args.source} holds its text as it was written"
    if args.scoring.reference is None:
        idle |= dict.fromkeys(("--num", "--length"), f"all samples of {args.source} are measured, as they are")
    return idle
