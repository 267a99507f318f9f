"""A sampler by its name and options, as people give them: what belongs to which sampler, and what would do nothing."""

from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from mcd.errors import UsageError
from mcd.model.denoiser import Denoiser
from mcd.options import option_name
from mcd.sampler import DEFAULT_SAMPLER, SAMPLERS, Sampler

OWNERS = {
    field.name: [kind for kind in SAMPLERS.values() if hasattr(kind, field.name)]
    for sampler in SAMPLERS.values()
    for field in fields(sampler)
    if field.name != "steps"
}
"""The options of samplers, by field, and the samplers that have them. Every sampler has `steps`."""


def sampler_of(process: str, name: str | None = None, **options: Any) -> Sampler:
    """The sampler of a name, by default the one for models of `process`, with the options that are given.

    options: fields of samplers; one that is None is not given.

    Raises UsageError for a name or an option that is not known, an option of other samplers, a value that the sampler
    refuses, and an option that the others leave without effect.
    """
    name = name or DEFAULT_SAMPLER[process]
    if name not in SAMPLERS:
        raise UsageError(f"--sampler {name}: is not known{_meant(name, SAMPLERS)}; known are {', '.join(SAMPLERS)}")
    kind, options = SAMPLERS[name], {key: value for key, value in options.items() if value is not None}
    for option in options.keys() - {"steps"}:
        if option not in OWNERS:
            raise UsageError(f"{option_name(option)}: is no option of drawing text{_meant(option, OWNERS)}")
        if kind not in OWNERS[option]:
            others = ", ".join(other.name for other in OWNERS[option])
            raise UsageError(f"{option_name(option)}: is no option of --sampler {name}, but of {others}")
    try:
        sampler = kind(**options)
    except ValueError as error:
        raise UsageError(str(error)) from None
    for option, reason in idle_in_drawing(sampler).items():
        if option in map(option_name, options):
            raise UsageError(f"{option}: does nothing here, since {reason}; leave it out")
    return sampler


def idle_in_drawing(sampler: Sampler) -> dict[str, str]:
    """The options that a sampler's other options leave without effect, with the reason."""
    idle = {}
    if getattr(sampler, "greedy", False):
        idle |= dict.fromkeys(
            ("--temperature", "--top-p", "--guidance"), "--greedy takes the likeliest token whatever they say"
        )
    if getattr(sampler, "eta", None) == 0.0:
        idle["--remasking"] = "--eta 0 never masks a token again"
    if getattr(sampler, "history", None) == 0:
        idle["--kl-threshold"] = "--history 0 asks for confidence alone"
    if sampler.process == "autoregressive":
        idle["--steps"] = "an autoregressive model takes one step per token"
    return idle


def check_process(sampler: Sampler, denoiser: Denoiser) -> None:
    """Raise UsageError for a sampler of another kind of model."""
    kind = denoiser.config.process
    if sampler.process != kind:
        raise UsageError(
            f"--sampler {sampler.name}: draws from {sampler.process} models, and this one is {kind}; "
            f"give --sampler {DEFAULT_SAMPLER[kind]}"
        )


def fitted(sampler: Sampler, denoiser: Denoiser, length: int) -> Sampler:
    """The sampler for rows of `length` tokens. An autoregressive model takes a step per token, whatever was asked."""
    return replace(sampler, steps=length) if denoiser.config.process == "autoregressive" else sampler


def _meant(word: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
