"""What the configurations of public checkpoints say about a model: three layouts, each with its own names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from mcd.checkpoints.config import config_of_json
from mcd.checkpoints.public_layout import Sizes, known_heads
from mcd.errors import ModelError
from mcd.model.denoiser import DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.process.schedule import LogLinear

Family = Literal["mdlm", "sdtt", "duo"]
FAMILIES: tuple[Family, ...] = ("mdlm", "sdtt", "duo")
MDLM_EPS = 1e-3
"""Of the log-linear schedule in MDLM and SDTT, whose code sets it and whose configurations do not have it; also in IDLM
and dlm-mmd, whose code passes over the `noise.eps` of their configurations."""
_MASK_INSIDE = ("bert-base-uncased", "text8")
"""Tokenizers of the public code with a mask among their own tokens."""
LICENCES: dict[Family, str | None] = {"mdlm": "apache-2.0", "duo": "apache-2.0", "sdtt": None}
"""Licence of the code of each layout; SDTT's repository states none."""


@dataclass(frozen=True)
class Said:
    """Settings that the user gives for a checkpoint; None for those that the checkpoint decides."""

    family: Family | None = None
    heads: int | None = None
    length: int | None = None
    time_conditioned: bool | None = None
    eps: float | None = None


@dataclass(frozen=True)
class Facts:
    """What a configuration says; None where it does not. configured: is there one?"""

    family: Family
    uniform: bool
    time_conditioned: bool | None = None
    eps: float | None = None
    heads: int | None = None
    length: int | None = None
    dropout: float | None = None
    tokenizer: str | None = None
    own: DenoiserConfig | None = None
    """Our configuration of a model that `mcd export` wrote, stored next to the public fields."""
    licence: str | None = None
    """Licence of the code that wrote the checkpoint, if it is not that of the layout."""
    configured: bool = True


def facts_of(config: Mapping[str, Any], family: Family | None, source: str) -> Facts:
    """Read a configuration of any of the layouts; `family` is what the user says about a file that has none.

    Raises ModelError for an unsupported model: autoregressive, SEDD, D3PM, another schedule, a mask inside the
    vocabulary.
    """
    kind = str(config.get("model_type", "")).lower()
    if kind in ("mdlm", "duo"):
        facts = _hub(config, kind, source)
    elif isinstance(config.get("parameterization"), Mapping):
        facts = _sdtt(config, source)
    elif isinstance(config.get("algo"), Mapping):
        facts = _duo(config, source)
    elif isinstance(config.get("parameterization"), str):
        facts = _mdlm(config, source)
    elif family is not None:
        return Facts(family, uniform=family == "duo", tokenizer="gpt2", configured=False)
    elif str(config.get("format", "")).startswith("mcd-model"):
        raise ModelError(f"{source}: this is already an mcd model; use it directly")
    else:
        what = f"says it is {kind!r}" if kind else "does not say what it is"
        raise ModelError(f"{source}: {what}; for weights of MDLM, SDTT or Duo give --layout mdlm, sdtt or duo")
    if family not in (None, facts.family):
        raise ModelError(f"--layout {family}: the configuration of {source} says {facts.family}; leave the option out")
    if facts.tokenizer in _MASK_INSIDE and not facts.uniform:
        raise ModelError(
            f"{source}: its tokenizer, {facts.tokenizer}, has the mask among its own tokens; only a mask in the last "
            "row can be imported"
        )
    return facts


def denoiser_config(
    sizes: Sizes, facts: Facts, said: Said, time_trained: bool | None, source: str
) -> tuple[DenoiserConfig, list[str]]:
    """The configuration of the imported model, and what had to be assumed for it.

    time_trained: have weights moved that only a time input moves? None where nothing shows it. Raises ModelError where
    sources disagree, or none says it.
    """
    assumed = []
    known = known_heads(sizes.hidden, sizes.layers)
    of_heads = {"--heads": said.heads, "the rotary buffer": sizes.heads, "its configuration": facts.heads}
    found_heads = _agreed("heads", of_heads, source)
    if found_heads is None:
        if known is None:
            raise ModelError(f"{source}: nothing in it says how many heads the model has; give --heads")
        found_heads = known
        assumed.append(f"heads {known}: of the published size ({sizes.hidden} wide, {sizes.layers} layers)")
    found_length = _agreed("length", {"--length": said.length, "its configuration": facts.length}, source)
    if found_length is None:
        if known is None:
            raise ModelError(f"{source}: nothing in it says how long its rows are; give --length")
        found_length = 1024
        assumed.append("length 1024: of the published sizes")
    dropout = facts.dropout
    if dropout is None:
        dropout = 0.1
        assumed.append("dropout 0.1: of the published sizes (used in training only)")
    if facts.own is not None:
        own = facts.own
        eps = own.schedule.eps if isinstance(own.schedule, LogLinear) else None
        _agreed("eps", {"--eps": said.eps, "its configuration": eps}, source)
        _time_conditioned(facts, said, None, source)
        names = ("rows", "hidden", "layers", "cond_dim", "heads", "length")
        mine = [getattr(own.backbone, name, None) for name in names]
        if mine != [sizes.rows, sizes.hidden, sizes.layers, sizes.cond_dim, found_heads, found_length]:
            raise ModelError(f'{source}: the "mcd" part of its config.json is of other sizes than its weights')
        return facts.own, assumed
    try:
        backbone = DiTConfig(
            rows=sizes.rows,
            hidden=sizes.hidden,
            layers=sizes.layers,
            heads=found_heads,
            length=found_length,
            cond_dim=sizes.cond_dim,
            dropout=dropout,
        )
    except ValueError as error:
        raise ModelError(f"{source}: {error}") from None
    time_conditioned, reason = _time_conditioned(facts, said, time_trained, source)
    eps = _agreed("eps", {"--eps": said.eps, "its configuration": facts.eps}, source)
    if reason is not None:
        assumed.append(f"{CONDITIONING} {time_conditioned}: {reason}")
    if eps is None:
        eps = MDLM_EPS
        assumed.append(f"eps {eps} of the log-linear schedule: set by the public code, not by a configuration")
    mask_id = None if facts.uniform else sizes.rows - 1
    return DenoiserConfig(backbone, mask_id, LogLinear(eps), time_conditioned), assumed


CONDITIONING = "time_conditioned"
"""First word of an assumption about the time input, which changes predictions more than all other assumptions."""


def _time_conditioned(facts: Facts, said: Said, trained: bool | None, source: str) -> tuple[bool, str | None]:
    """Does the network have the time as an input, and, where that is assumed, why?"""
    if facts.uniform:
        if said.time_conditioned is False:
            raise ModelError(f"--no-time-conditioned: {source} is a model of Duo's, which all read the time")
        return True, None
    given = {"--time-conditioned": said.time_conditioned, "its configuration": facts.time_conditioned}
    found = _agreed("time conditioning", given, source)
    if found is not None:
        return found, None
    if trained is None:
        return False, "the default of MDLM and SDTT; nothing in the file says it"
    if trained:
        return True, "its weights differ from their average where only a time input trains them"
    return False, "its weights are their average to the bit where a time input would have trained them"


T = TypeVar("T", int, float, bool)


def _agreed(what: str, said: Mapping[str, T | None], source: str) -> T | None:
    """The one value that all who say something say. Raises ModelError when they differ."""
    values = {who: value for who, value in said.items() if value is not None}
    if len(set(values.values())) > 1:
        shown = ", ".join(f"{who} says {value}" for who, value in values.items())
        raise ModelError(f"{source}: {shown} ({what}); they must agree")
    return next(iter(values.values()), None)


def _hub(config: Mapping[str, Any], kind: str, source: str) -> Facts:
    """MDLMConfig and DUOConfig of the hub."""
    if config.get("causal"):
        raise ModelError(f"{source}: a causal (autoregressive) model, which cannot be imported")
    own = None
    if kind == "mdlm" and "mcd" in config:
        own = config_of_json(config["mcd"])
    return Facts(
        "mdlm" if kind == "mdlm" else "duo",
        uniform=kind == "duo",
        time_conditioned=None if kind == "duo" else _flag(config, "time_conditioning", source),
        heads=_whole(config, "n_heads", source),
        length=_whole(config, "model_length", source),
        dropout=_share(config, "dropout", source),
        tokenizer="gpt2" if own is None else None,
        own=own,
    )


def _sdtt(config: Mapping[str, Any], source: str) -> Facts:
    """SDTT's whole hydra configuration, on the hub as config.json and in its checkpoints."""
    name = config["parameterization"].get("name")
    if name != "multi-round-sdtt":
        raise ModelError(f"{source}: parameterization {name!r} of SDTT's code; only multi-round-sdtt can be imported")
    _check_noise(config, ("loglinear",), source)
    return Facts(
        "sdtt",
        uniform=False,
        time_conditioned=_flag(config, "time_conditioning", source),
        tokenizer=_text(config.get("tokenizer"), "name"),
        **_model(config, source),
    )


def _mdlm(config: Mapping[str, Any], source: str) -> Facts:
    """The hydra configuration in MDLM's own checkpoints."""
    if config["parameterization"] != "subs" or config.get("backbone", "dit") not in ("dit", "hf_dit"):
        raise ModelError(
            f"{source}: parameterization {config['parameterization']!r} with backbone {config.get('backbone')!r}; "
            "only subs with dit (MDLM) can be imported"
        )
    _check_noise(config, ("loglinear",), source)
    return Facts(
        "mdlm",
        uniform=False,
        time_conditioned=_flag(config, "time_conditioning", source),
        tokenizer=_text(config.get("data"), "tokenizer_name_or_path"),
        **_model(config, source),
    )


def _duo(config: Mapping[str, Any], source: str) -> Facts:
    """The hydra configuration in the checkpoints of Duo's repository, which trains MDLM too."""
    algo = config["algo"]
    name = algo.get("name")
    uniform = name in ("duo", "duo_base", "distillation", "ot-finetune")
    if (not uniform and name not in ("mdlm", "mmd")) or algo.get("causal_attention"):
        raise ModelError(
            f"{source}: algo {name!r} of Duo's code; only duo, its distillation, mdlm and dlm-mmd's mmd can be imported"
        )
    if algo.get("backbone", "dit") not in ("dit", "hf_dit"):
        raise ModelError(f"{source}: backbone {algo.get('backbone')!r}; only dit can be imported")
    _check_noise(config, ("log-linear",), source)
    descendant = name == "mmd" or "adversarial_distill" in config  # dlm-mmd and IDLM, which began with Duo's code
    eps = MDLM_EPS if descendant else _share(config["noise"], "eps", source, "noise.eps")
    return Facts(
        "duo" if uniform else "mdlm",
        uniform=uniform,
        time_conditioned=None if uniform else _flag(algo, "time_conditioning", source),
        eps=eps,
        tokenizer=_text(config.get("data"), "tokenizer_name_or_path"),
        licence="mit" if descendant else None,
        **_model(config, source),
    )


def _model(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    model = config.get("model")
    if not isinstance(model, Mapping):
        return {}
    return {
        "heads": _whole(model, "n_heads", source),
        "length": _whole(model, "length", source),
        "dropout": _share(model, "dropout", source),
    }


def _check_noise(config: Mapping[str, Any], names: tuple[str, ...], source: str) -> None:
    noise = config.get("noise")
    kind = noise.get("type") if isinstance(noise, Mapping) else None
    if kind not in names:
        raise ModelError(f"{source}: noise schedule {kind!r}; only {names[0]} can be imported")


def _whole(config: Mapping[str, Any], name: str, source: str) -> int | None:
    value = config.get(name)
    if value is not None and (type(value) is not int or not 1 <= value < 1 << 24):
        raise ModelError(f"{source}: {name} {value!r} of its configuration is no possible size")
    return value


def _share(config: Mapping[str, Any], name: str, source: str, shown: str | None = None) -> float | None:
    value = config.get(name)
    if value is not None and (type(value) not in (int, float) or not 0 <= value < 1):
        raise ModelError(f"{source}: {shown or name} {value!r} of its configuration is no share of [0, 1)")
    return value if value is None else float(value)


def _flag(config: Mapping[str, Any], name: str, source: str) -> bool | None:
    value = config.get(name)
    if value is not None and type(value) is not bool:
        raise ModelError(f"{source}: {name} {value!r} in its configuration must be true or false")
    return value


def _text(config: Any, name: str) -> str | None:
    value = config.get(name) if isinstance(config, Mapping) else None
    return value if isinstance(value, str) else None
