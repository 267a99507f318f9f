"""Which tokens end a text, and begin and end a row: what the files next to a tokenizer.json say."""

from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from mcd.data.tokenizer import is_path
from mcd.errors import DataError
from mcd.files import optional_object

TOKENIZER_CONFIG = "tokenizer_config.json"
NAMING = (TOKENIZER_CONFIG, "special_tokens_map.json")
"""Files that name special tokens; the first one that names a token decides."""
GUESSED = "its usual name"
"""The source of a token that no file names."""
USUAL_ENDS = ("<|endoftext|>", "</s>", "[SEP]", "<eos>", "<|end_of_text|>")
"""Names of the end of text, where no file names it."""


class Found(NamedTuple):
    """A token, and what names it."""

    id: int
    source: str


class HubSilent(Exception):
    """The hub did not say whether a file is there; the message is the kind of the fault."""


def file_beside(tokenizer: str, name: str) -> Path | None:
    """The file `name` next to a tokenizer (a tokenizer.json, a folder or a hub id); None where there is none.

    A file of another name than tokenizer.json has no files next to it. Raises HubSilent.
    """
    path = Path(tokenizer)
    if path.exists() or is_path(tokenizer):
        file = (path if path.is_dir() else path.parent) / name
        return file if file.is_file() and (path.is_dir() or path.name == "tokenizer.json") else None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        cached = try_to_load_from_cache(tokenizer, name)  # of the commit that the tokenizer was just read from
        if cached is None:
            return Path(hf_hub_download(tokenizer, name))
        return Path(cached) if isinstance(cached, str) else None  # else it is known that there is none
    except Exception as error:  # the hub's client raises many kinds
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        raise HubSilent(type(error).__name__) from None


def notes_beside(tokenizer: str) -> dict[str, dict[str, Any]]:
    """The objects in NAMING and config.json next to a tokenizer, {} for a file that is not there.

    Raises DataError for one that cannot be read. Where the hub cannot be reached, there are none.
    """
    notes: dict[str, dict[str, Any]] = {name: {} for name in (*NAMING, "config.json")}
    for name in notes:
        try:
            path = file_beside(tokenizer, name)
        except HubSilent:  # to ask for the next would only cost its time-out
            break
        try:
            notes[name] = {} if path is None else optional_object(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from None
    return notes


def end_of_text(tokenizer: Tokenizer, beside: str | None = None, named: str | None = None) -> Found:
    """The token that ends a text.

    named: its name, as the user gave it. Otherwise `eos_token` of tokenizer_config.json or special_tokens_map.json, or
    `eos_token_id` of config.json, where that is a special token; then `sep_token`, the same way (BERT's files name no
    end of text); then [SEP] next to a [MASK], or one of USUAL_ENDS, special tokens first.
    beside: where the tokenizer is from, to look for these files. Raises DataError where there is none, and where a name
    is none of the tokenizer's.
    """
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    listed = f"; its special tokens are {', '.join(special[:8])}{' ...' if len(special) > 8 else ''}" if special else ""
    if named is not None:
        i = tokenizer.token_to_id(named)
        if i is None:
            raise DataError(f"--eos-token {named}: the tokenizer has no such token{listed}")
        return Found(i, "--eos-token")
    if beside is not None:
        notes = notes_beside(beside)
        for kind in ("eos", "sep"):
            found = _named(tokenizer, notes, kind)
            if found is not None:
                return found
    present = {name: i for name in USUAL_ENDS if (i := tokenizer.token_to_id(name)) is not None}
    masked = ["[SEP]"] if tokenizer.token_to_id("[MASK]") is not None and "[SEP]" in present else []
    for name in (*masked, *filter(special.__contains__, present), *present):
        return Found(present[name], GUESSED)
    raise DataError(
        "--tokenizer: nothing says which token ends a text, and it has none of the usual names such as <|endoftext|> "
        f"(no end-of-text token); name it with --eos-token, or in a {TOKENIZER_CONFIG} next to it{listed}"
    )


def frame_of(tokenizer: Tokenizer, beside: str) -> tuple[int, int]:
    """The ids of the tokens that begin and end a row of a network that was trained with them, such as [CLS] and [SEP].

    They are `cls_token` and `sep_token` of the files next to the tokenizer, or what its own post-processor puts around
    a text, one token on either side. Raises DataError where there are none.
    """
    notes = notes_beside(beside)
    ids = [found.id for kind in ("cls", "sep") if (found := _named(tokenizer, notes, kind)) is not None]
    if len(ids) < 2:
        ids = tokenizer.encode("").ids
    if len(ids) != 2:
        raise DataError(
            f"--frame: the tokenizer of {beside} has no tokens that begin and end a row (cls_token and sep_token in a "
            f"{TOKENIZER_CONFIG} next to it, or a post-processor that adds them); leave it out"
        )
    return ids[0], ids[1]


def _named(tokenizer: Tokenizer, notes: dict[str, dict[str, Any]], kind: str) -> Found | None:
    """The token of a kind ("eos", "sep", "cls") that the files name, if they do."""
    for file in NAMING:
        name = notes[file].get(f"{kind}_token")
        name = name.get("content") if isinstance(name, dict) else name
        if isinstance(name, str) and name:
            i = tokenizer.token_to_id(name)
            if i is None:
                fix = "name it with --eos-token" if kind == "eos" else "correct the file"
                raise DataError(f"{file}: names {name!r:.60} as {kind}_token, which the tokenizer lacks; {fix}")
            return Found(i, f"{kind}_token of {file}")
    number = notes["config.json"].get(f"{kind}_token_id")
    number = number[0] if isinstance(number, list) and number else number
    if not isinstance(number, int):
        return None
    token = tokenizer.get_added_tokens_decoder().get(number)
    # transformers writes defaults there (2), which may be any letter of this vocabulary
    return Found(number, f"{kind}_token_id of config.json") if token is not None and token.special else None
