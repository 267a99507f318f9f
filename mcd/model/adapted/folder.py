"""Folders of Hugging Face: what config.json and the tokenizer's files say of a masked language model."""

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mcd.model.adapted.config import AdaptedConfig, ids_of_ranges, ranges_of_ids, rows_of
from mcd.model.adapted.families import Settings

MASKS = ("[MASK]", "<mask>", "<|mask|>", "<|mdm_mask|>")
"""The mask under its usual names, when no file says which it is."""
COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json")
"""What stands beside tokenizer.json: names of its special tokens, and the like."""
_UNUSED = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+")


def config_to_published(config: AdaptedConfig, section: dict[str, Any]) -> dict[str, Any]:
    """The config.json of a saved network: as published, with a section "mcd" of what is ours beside `section`."""
    forbidden = ranges_of_ids(config.forbidden)
    ours = {**section, "length": config.length, "tokens": config.tokens, "forbidden": forbidden}
    return {**{key: value for key, value in config.settings.items() if key != "mcd"}, "mcd": ours}


def config_from_published(value: dict[str, Any]) -> AdaptedConfig:
    """What `config_to_published` wrote. Raises KeyError, TypeError or ValueError when it is damaged."""
    settings, ours = {key: part for key, part in value.items() if key != "mcd"}, value["mcd"]
    forbidden = ids_of_ranges(ours["forbidden"], rows_of(settings))
    return AdaptedConfig(settings, forbidden, ours["tokens"], ours["length"])


def read_published(folder: Path, settings: Settings) -> tuple[AdaptedConfig, int]:
    """The network of a folder that is not ours, and the id of its mask.

    Forbidden are the mask, the padding (unless it also ends documents), ids that no token has, and tokens that are
    called unused. Raises KeyError, TypeError or ValueError, with the mend, for a network that is not known, and without
    a tokenizer.json or a mask.
    """
    rows = rows_of(settings)
    tokenizer = _tokenizer(folder)
    notes = [_json(folder / name) for name in COMPANIONS]
    ids = {kind: _special_id(kind, settings, notes, tokenizer) for kind in ("mask", "pad", "eos", "sep")}
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
    tokens = tokenizer.get_vocab_size()
    return AdaptedConfig(settings, tuple(sorted(i for i in never if i is not None)), tokens), ids["mask"]


def _tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(
            "no tokenizer.json; transformers makes one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises bare Exception for every fault
        raise ValueError(f"tokenizer.json: is no tokenizer ({error})") from None


def _json(path: Path) -> dict[str, Any]:
    """A file that need not be there."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: cannot be read ({error})") from None
    return value if isinstance(value, dict) else {}


def _special_id(kind: str, settings: Settings, notes: list[dict[str, Any]], tokenizer: Tokenizer) -> int | None:
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
