"""The options of drawing text that `mcd sample` and `mcd eval` share."""

import functools
import hashlib
import inspect
import sys
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import tyro
from docstring_parser import parse_from_object
from tokenizers import Tokenizer

from mcd.checkpoints.config import read_config
from mcd.checkpoints.locate import locate
from mcd.checkpoints.weights import WEIGHTS, parts_of_weights
from mcd.cli.arguments import Flat, Threads
from mcd.cli.idle_options import typed
from mcd.data.special_tokens import frame_of
from mcd.errors import UsageError
from mcd.files import file_sha256
from mcd.model.denoiser import Denoiser
from mcd.options import Count, Options, interval, option_name
from mcd.sampler import SAMPLERS, Sampler
from mcd.sampler.choice import OWNERS, sampler_of
from mcd.training.trained_on import frame_of_model

DRAWING = ("--sampler", "--steps", *map(option_name, OWNERS))
"""The options that mean nothing where nothing is drawn from a model."""


def _options_of_samplers() -> type:
    """A dataclass of the options in `OWNERS`. The help of each names its samplers and its defaults."""
    texts = functools.cache(
        lambda owner: {one.arg_name: one.description or "" for one in parse_from_object(owner).params}
    )
    made = []
    for name, kinds in OWNERS.items():
        owner = next(one for one in kinds[0].__mro__ if name in inspect.get_annotations(one))
        text = " ".join(texts(owner)[name].split())
        whose = "" if len(kinds) == len(SAMPLERS) else f"{', '.join(kind.name for kind in kinds)}: "
        default, *others = dict.fromkeys(getattr(kind, name) for kind in kinds)
        of_each = ", ".join(f"{getattr(kind, name)} of {kind.name}" for kind in kinds)
        bounds = interval(get_type_hints(owner, include_extras=True)[name])
        hint = f"({bounds}{'; ' * bool(bounds)}default: {of_each if others else default})"
        shown = tyro.conf.arg(help=whose + text, help_behavior_hint=hint)
        made.append((name, Annotated[get_type_hints(owner, include_extras=True)[name], shown], default))
    return make_dataclass("OptionsOfSamplers", made, frozen=True)


OptionsOfSamplers = _options_of_samplers()


@dataclass(frozen=True)
class SamplingOptions(Options):
    """How text is drawn."""

    length: Count | None = None
    """Tokens per row; by default the longest that the model makes, and in `mcd sample` as many as a template has."""
    sampler: Annotated[str | None, tyro.conf.arg(metavar=f"{{{','.join(SAMPLERS)}}}")] = None
    """How to generate. By default ancestral for a masked model, uniform for a uniform one, causal for an autoregressive
    one. Where an option below belongs only to some samplers, its text begins with their names."""
    frame: bool = False
    """Begin and end each row with the tokens that the tokenizer puts around a text ([CLS], [SEP]), for a network that
    was trained with them. They are always visible, and in no text and no figure."""
    weights: Literal["ema", "raw"] = "ema"
    """Which weights of a run folder to use."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network's matrix products. bfloat16 is several times as fast on a GPU, and slow on most CPUs;
    weights, logits and draws stay float32 and float64, and some tokens are others."""
    threads: Threads | None = None
    """CPU threads; all cores by default. The last bits of results depend on this number."""
    own: Flat[OptionsOfSamplers] = OptionsOfSamplers()  # type: ignore[valid-type]

    def sampler_for(self, model: str | None, argv: list[str]) -> Sampler:
        """The sampler with the options that `argv` names; without --sampler it is the one for the kind of `model`.

        Raises UsageError as `sampler_of`.
        """
        given = [name for name in OWNERS if option_name(name) in typed(argv)]
        return sampler_of(_process_of(model), self.sampler, **{name: getattr(self.own, name) for name in given})

    def length_for(self, denoiser: Denoiser) -> int:
        """The length asked for. Raises UsageError when it is beyond the model's."""
        longest = denoiser.config.backbone.length
        if self.length is not None and self.length > longest:
            raise UsageError(f"--length {self.length}: the model makes 1 to {longest} tokens")
        return self.length or longest

    def frame_for(self, denoiser: Denoiser, tokenizer: Tokenizer) -> tuple[int, int] | None:
        """The tokens around each row, if they are asked for. Raises UsageError for a length without room for text, and
        DataError where the tokenizer of the model has none."""
        if not self.frame:
            if denoiser.folder is not None and frame_of_model(denoiser.folder):
                print("mcd: the model was trained on rows in a frame; --frame draws such rows", file=sys.stderr)
            return None
        if self.length_for(denoiser) < 3:
            raise UsageError(f"--length {self.length}: must be at least 3 with --frame")
        return frame_of(tokenizer, str(denoiser.folder))


def _process_of(model: str | None) -> str:
    """The process of a model on this machine (none is fetched for this), or "masked"."""
    if model is not None and (model == "demo" or (Path(model) / "config.json").is_file()):
        return read_config(locate(model)).process
    return "masked"


def weights_digest(denoiser: Denoiser, weights: Literal["ema", "raw"]) -> str:
    """Twelve hex digits that identify the weights of a model."""
    assert denoiser.folder is not None
    digests = [file_sha256(part) for part in parts_of_weights(denoiser.folder / WEIGHTS[weights])]
    return (digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest())[:12]
