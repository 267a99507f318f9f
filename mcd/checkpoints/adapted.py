"""Folders of Hugging Face: what config.json and the tokenizer's files say of a masked language model."""

import re
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mcd.files import optional_object
from mcd.model.adapted.config import AdaptedConfig, ids_of_ranges, ranges_of_ids, rows_of
from mcd.model.adapted.families import Settings

MASKS = ("[MASK]", "<mask>", "<|mask|>", "<|mdm_mask|>")
"""The mask under its usual names, when no file says which it is."""
NOTES = ("tokenizer_config.json", "special_tokens_map.json")
"""What stands beside tokenizer.json: names of its special tokens, and the like."""
OF_TOKENIZER = (
    *NOTES,
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
)
COMPANIONS = (*OF_TOKENIZER, "generation_config.json", "LICENSE*", "NOTICE*")
"""Files beside config.json, weights and tokenizer.json that a model keeps when it is saved anew: without them
`transformers` would guess (and lower the case of a cased BERT's text), or know no chat template."""
FETCHED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.py", "LICENSE*", "NOTICE*")
"""What is fetched of a model on the hub. Its code (.py) is kept for `transformers`; nothing here runs it."""
NOT_OF_NETWORK = ("mcd", "dtype", "torch_dtype")
"""Keys of config.json that speak of the file's own weights, or are ours."""
_UNUSED = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+")


def config_to_published(config: AdaptedConfig, section: dict[str, Any]) -> dict[str, Any]:
    """The config.json of a saved network: as published, with a section "mcd" of what is ours beside `section`."""
    forbidden = ranges_of_ids(config.forbidden)
    ours = {**section, "length": config.length, "tokens": config.tokens, "forbidden": forbidden}
    return {**_of_network(config.settings), "mcd": ours}


def config_from_published(value: dict[str, Any]) -> AdaptedConfig:
    """What `config_to_published` wrote. Raises KeyError, TypeError or ValueError when it is damaged."""
    settings, ours = _of_network(value), value["mcd"]
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
    notes = [_json(folder / name) for name in NOTES]
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
    forbidden = tuple(sorted(i for i in never if i is not None))
    return AdaptedConfig(_of_network(settings), forbidden, tokens), ids["mask"]


def companions_of(folder: Path, names: tuple[str, ...] | None = None) -> list[Path]:
    """The files of `names` in a folder. By default COMPANIONS, and code (.py) if config.json names classes of it."""
    if names is None:
        config = folder / "config.json"
        names = (*COMPANIONS, "*.py") if config.is_file() and "auto_map" in _json(config) else COMPANIONS
    return [path for name in names for path in sorted(folder.glob(name)) if path.is_file()]


def copy_companions(source: Path, target: Path, names: tuple[str, ...] | None = None) -> None:
    """Copy the files of `companions_of` to the folder `target`, each whole or not at all. Raises OSError."""
    for path in companions_of(source, names):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        partial = copy.with_name(copy.name + ".partial")
        shutil.copyfile(path, partial)
        partial.replace(copy)


def _of_network(settings: Settings) -> Settings:
    return {key: value for key, value in settings.items() if key not in NOT_OF_NETWORK}


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
    try:
        return optional_object(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name}: cannot be read ({error})") from None


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
