"""The options of drawing text that `mcd sample` and `mcd eval` share."""

import hashlib
import sys
from dataclasses import dataclass, fields, make_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from tokenizers import Tokenizer

from mcd.checkpoints.folder import WEIGHTS, locate, parts_of_weights, read_config
from mcd.cli.arguments import Flat, check_threads, choose, parse, peek
from mcd.cli.typed_options import options_of, positionals, typed
from mcd.data.special_tokens import frame_of
from mcd.errors import UsageError
from mcd.files import file_sha256
from mcd.model.denoiser import Denoiser
from mcd.sampler import DEFAULT_SAMPLER, SAMPLERS, Sampler
from mcd.train.run_record import frame_of_data

MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class SamplingOptions:
    """How text is drawn, whatever the sampler."""

    length: int | None = None
    """Tokens a row; the longest the model makes by default."""
    sampler: str = "ancestral"
    """How to generate, with options of its own (`--sampler NAME --help` lists them)."""
    frame: bool = False
    """Begin and end each row with the tokens that the tokenizer puts around a text ([CLS], [SEP]), for a network that
    was trained with them: they are always visible, and in no text and no figure."""
    weights: Literal["ema", "raw"] = "ema"
    """Weight set of a run folder."""
    threads: int | None = None
    """CPU threads; all cores by default. Bits depend on it."""

    def length_for(self, denoiser: Denoiser) -> int:
        """The length asked for. Raises UsageError when it is beyond the model's."""
        longest = denoiser.config.backbone.length
        length = longest if self.length is None else self.length
        if not 1 <= length <= longest:
            raise UsageError(f"--length {length}: the model makes 1 to {longest} tokens")
        return length

    def frame_for(self, denoiser: Denoiser, tokenizer: Tokenizer) -> tuple[int, int] | None:
        """The tokens around each row, if they are asked for. Raises UsageError for a length without room for text, and
        DataError where the tokenizer of the model has none."""
        if not self.frame:
            if denoiser.folder is not None and frame_of_data(denoiser.folder):
                print("mcd: the model was trained on rows in a frame; --frame draws such rows", file=sys.stderr)
            return None
        if self.length_for(denoiser) < 3:
            raise UsageError(f"--length {self.length}: must be at least 3 with --frame")
        return frame_of(tokenizer, str(denoiser.folder))


DRAWING = {option: values for sampler in SAMPLERS.values() for option, values in options_of(sampler).items()}
"""The options of all samplers, with the number of values each takes (`options_of`)."""


def parse_with_sampler(kind: type, argv: list[str], command: str) -> Any:
    """`parse` into `kind`, which has a field `sampling`, with the options of the sampler asked for beside its own.

    The value has a further field `draw`, that sampler with its options (its `steps` means nothing). Without --sampler
    it is the one of the model named on the command line.
    """
    options = DRAWING | options_of(kind)
    name = peek(argv, "--sampler") or DEFAULT_SAMPLER[_process_of(positionals(argv, options))]
    sampler = choose(name, SAMPLERS, "sampler")
    for option in sorted(typed(argv) & DRAWING.keys() - options_of(sampler).keys() - options_of(kind).keys()):
        others = ", ".join(other for other, one in SAMPLERS.items() if option in options_of(one))
        raise UsageError(f"{option}: is no option of --sampler {name}, but of {others}")
    hidden = make_dataclass(sampler.__name__, [("steps", tyro.conf.Suppress[int], 32)], bases=(sampler,), frozen=True)
    args = make_dataclass(
        kind.__name__,
        [("sampling", Flat[SamplingOptions], SamplingOptions(sampler=name)), ("draw", Flat[hidden], hidden())],
        bases=(kind,),
        frozen=True,
        namespace={"__doc__": kind.__doc__},
    )
    return parse(args, argv, command)


def sampler_of(args: Any, steps: int) -> Sampler:
    """The sampler of parsed arguments at a number of steps. Raises UsageError when it refuses a value."""
    check_threads(args.sampling.threads)
    if steps > MOST_STEPS:
        raise UsageError(f"--steps {steps}: must be at most {MOST_STEPS}")
    kind = SAMPLERS[args.draw.name]
    options = {field.name: getattr(args.draw, field.name) for field in fields(kind)}
    try:
        return kind(**options | {"steps": steps})
    except ValueError as error:
        raise UsageError(str(error)) from None


def _process_of(words: list[str]) -> str:
    """The process of the model that the first word names (none is fetched for this), or "masked"."""
    for word in words[:1]:
        if word == "demo" or (Path(word) / "config.json").is_file():
            return read_config(locate(word)).process
    return "masked"


def idle_in_drawing(draw: Sampler) -> dict[str, str]:
    """The options that a sampler's other options leave without effect, with the reason, for `refuse_idle`."""
    idle = {}
    if getattr(draw, "greedy", False):
        idle |= dict.fromkeys(("--temperature", "--top-p"), "--greedy takes the likeliest token whatever they say")
    if getattr(draw, "eta", None) == 0.0:
        idle["--remasking"] = "--eta 0 never masks a token again"
    if draw.process == "autoregressive":
        idle["--steps"] = "an autoregressive model takes one step a token"
    return idle


def check_process(sampler: Sampler, denoiser: Denoiser) -> None:
    """Raise UsageError for a sampler of another kind of model."""
    kind = denoiser.config.process
    if sampler.process != kind:
        raise UsageError(
            f"--sampler {sampler.name}: draws from {sampler.process} models, this one is {kind}; "
            f"leave it out for {DEFAULT_SAMPLER[kind]}"
        )


def fitted(sampler: Sampler, denoiser: Denoiser, length: int) -> Sampler:
    """The sampler for rows of `length` tokens. An autoregressive model takes a step a token, whatever was asked for."""
    return replace(sampler, steps=length) if denoiser.config.process == "autoregressive" else sampler


def weights_digest(denoiser: Denoiser, weights: Literal["ema", "raw"]) -> str:
    """Twelve hex digits that tell the weights of a model from any others."""
    assert denoiser.folder is not None
    digests = [file_sha256(part) for part in parts_of_weights(denoiser.folder / WEIGHTS[weights])]
    return (digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest())[:12]
