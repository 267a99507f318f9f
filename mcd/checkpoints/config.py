"""config.json of a model folder: ours, or that of a masked language model as Hugging Face publishes it.

Ours of an adapted network is the published one with a section "mcd". Values are not trusted: whatever a file holds,
reading it gives a `DenoiserConfig` that a network can compute with, or raises ModelError.
"""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mcd.errors import ModelError
from mcd.files import optional_object, read_json
from mcd.model.adapted.config import AdaptedConfig, ids_of_ranges, ranges_of_ids, rows_of
from mcd.model.adapted.families import Settings, family_of
from mcd.model.denoiser import DenoiserConfig
from mcd.model.dit import DiTConfig
from mcd.model.lora import Base
from mcd.process.schedule import config_of_schedule, schedule_of_config

FORMAT = "mcd-model-1"
MASKS = ("[MASK]", "<mask>", "<|mask|>", "<|mdm_mask|>")
"""The mask under its usual names, when no file says which it is."""
NOTES = ("tokenizer_config.json", "special_tokens_map.json")
"""Files next to tokenizer.json that name its special tokens, and the like."""
NOT_OF_NETWORK = ("mcd", "dtype", "torch_dtype")
"""Keys of config.json that speak of the file's own weights, or are ours."""
_UNUSED = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+")


def config_to_json(config: DenoiserConfig) -> dict[str, Any]:
    """The JSON form of a model's configuration; `config_of_json` reads it back."""
    schedule = config_of_schedule(config.schedule)
    backbone = config.backbone
    locked = {"locked": list(config.locked)} if config.locked else {}
    if isinstance(backbone, AdaptedConfig):
        forbidden = ranges_of_ids(backbone.forbidden)
        section = {"format": FORMAT, "mask_id": config.mask_id, "schedule": schedule, "length": backbone.length}
        section |= {} if backbone.start is None else {"start": backbone.start}
        section |= {"tokens": backbone.tokens, "forbidden": forbidden} | locked
        return {**of_network(backbone.settings), "mcd": section}
    return {
        "format": FORMAT,
        "backbone": asdict(backbone),
        "mask_id": config.mask_id,
        "schedule": schedule,
        "time_conditioned": config.time_conditioned,
    } | locked


def config_of_json(value: Any) -> DenoiserConfig:
    """A configuration from its JSON form. Raises ModelError when it is of another format, or damaged."""
    ours = value.get("mcd", value) if isinstance(value, dict) else None
    if not isinstance(ours, dict) or ours.get("format") != FORMAT:
        where = "" if ours is None or ours is value else ' in its section "mcd"'
        raise ModelError(f'config.json is not of an mcd model (no "format": "{FORMAT}"{where})')
    if ours is not value:
        try:
            family_of(value)
        except ValueError as error:
            raise ModelError(str(error)) from None
    try:
        schedule, locked = schedule_of_config(ours["schedule"]), tuple(ours.get("locked", ()))
        if ours is value:
            backbone, conditioned = DiTConfig(**ours["backbone"]), ours["time_conditioned"]
            return DenoiserConfig(backbone, ours["mask_id"], schedule, conditioned, locked)
        settings = of_network(value)
        forbidden = ids_of_ranges(ours["forbidden"], rows_of(settings))
        backbone = AdaptedConfig(settings, forbidden, ours["tokens"], ours["length"], ours.get("start"))
        return DenoiserConfig(backbone, ours["mask_id"], schedule, locked=locked)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"config.json is damaged: {error}") from None


def read_config(folder: Path) -> DenoiserConfig:
    """The configuration of a model's folder. Raises ModelError when config.json is missing, damaged or foreign.

    A folder of Hugging Face says what network it is, and its tokenizer which id is the mask; the schedule is LogLinear.
    """
    try:
        value = read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}/config.json: cannot be read ({error})") from None
    try:
        if isinstance(value, dict) and "model_type" in value and "mcd" not in value:
            return _published_config(folder, value)
        return config_of_json(value)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}: {error}") from None


def base_of(folder: Path) -> Base | None:
    """The published network next to which the factors in a model's folder were trained; None for a whole network.

    config.json is one that `read_config` has read. Raises ModelError where it names a base and no hash of it.
    """
    section = read_json(folder / "config.json").get("mcd", {})
    if not isinstance(section, dict) or "base" not in section:
        return None
    match section["base"]:
        case {"name": str(name), "sha256": str(digest)}:
            return Base(name, digest)
    raise ModelError(f'{folder}/config.json: its "base" is no name and sha256 of a network')


def of_network(settings: Settings) -> Settings:
    """Settings without what speaks of a file's own weights, or is ours."""
    return {key: value for key, value in settings.items() if key not in NOT_OF_NETWORK}


def _published_config(folder: Path, settings: Settings) -> DenoiserConfig:
    """The network of a folder of Hugging Face. Forbidden are its mask, its padding (unless that also ends documents),
    ids that no token has, and tokens that are called unused.

    Raises KeyError, TypeError or ValueError for an unknown network, and without a tokenizer.json or a mask.
    """
    if family_of(settings).causal:
        raise ValueError("is autoregressive: `mcd adapt` makes a masked model out of it")
    rows = rows_of(settings)
    tokenizer = tokenizer_in(folder)
    notes = notes_in(folder)
    ids = {kind: special_id(kind, settings, notes, tokenizer) for kind in ("mask", "pad", "eos", "sep")}
    if ids["mask"] is None:
        ids["mask"] = next((i for i in map(tokenizer.token_to_id, MASKS) if i is not None), None)
    if ids["mask"] is None:
        raise ValueError("neither config.json nor tokenizer_config.json names a mask token")
    never = {ids["mask"]}
    if ids["pad"] is not None and ids["pad"] not in (ids["eos"], ids["sep"]):
        never.add(ids["pad"])
    for i in range(rows):
        token = tokenizer.id_to_token(i)
        if token is None or _UNUSED.fullmatch(token):
            never.add(i)
    backbone = AdaptedConfig(of_network(settings), tuple(sorted(never)), tokenizer.get_vocab_size())
    return DenoiserConfig(backbone, ids["mask"])


def tokenizer_in(folder: Path) -> Tokenizer:
    """The tokenizer.json of a folder. Raises ValueError where there is none, or a damaged one."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(
            "no tokenizer.json; transformers makes one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises bare Exception for every fault
        raise ValueError(f"tokenizer.json: is no tokenizer ({error})") from None


def notes_in(folder: Path) -> list[dict[str, Any]]:
    """The files NOTES of a folder, {} for one that is not there. Raises ValueError for one that is damaged."""
    return [_note(folder / name) for name in NOTES]


def _note(path: Path) -> dict[str, Any]:
    try:
        return optional_object(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name}: cannot be read ({error})") from None


def special_id(kind: str, settings: Settings, notes: list[dict[str, Any]], tokenizer: Tokenizer) -> int | None:
    """The id of a special token, as config.json says it by number, or a file of the tokenizer by name."""
    number = settings.get(f"{kind}_token_id")
    if type(number) is int:
        return number
    for note in notes:
        name = note.get(f"{kind}_token")
        name = name.get("content") if isinstance(name, dict) else name
        if isinstance(name, str) and (number := tokenizer.token_to_id(name)) is not None:
            return number
    return None
