"""What stands beside a tokenizer.json and says which of its tokens end a text, and begin and end a row."""

from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from mcd.errors import DataError
from mcd.files import optional_object

NOTES = ("tokenizer_config.json", "special_tokens_map.json")
"""Files that name special tokens; the first one that names a token is believed."""
GUESSED = "its usual name"
"""What says which token it is, where nothing does."""
USUAL_ENDS = ("<|endoftext|>", "</s>", "[SEP]", "<eos>", "<|end_of_text|>")
"""Names of the end of text, for a tokenizer of which nothing says what it is."""


class Found(NamedTuple):
    """A token, and what says that it is the one."""

    id: int
    source: str


def notes_of(name_or_path: str) -> dict[str, dict[str, Any]]:
    """The values of NOTES and config.json beside a tokenizer (a tokenizer.json, a folder or a hub id), {} for none.

    A file of another name than tokenizer.json has nothing beside it. Raises DataError for one that cannot be read.
    """
    path = Path(name_or_path)
    names = (*NOTES, "config.json")
    if path.is_dir() or (path.is_file() and path.name == "tokenizer.json"):
        folder = path if path.is_dir() else path.parent
        return {name: _json(folder / name) for name in names}
    return {note: {} for note in names} if path.is_file() else _of_hub(name_or_path, names)


def end_of_text(
    tokenizer: Tokenizer, beside: str | None = None, named: str | None = None, mend: str = "name it with --eos-token"
) -> Found:
    """The token that ends a text.

    named: its name, as the user gave it. Otherwise `eos_token` of tokenizer_config.json or special_tokens_map.json, or
    `eos_token_id` of config.json, where that is a special token; then `sep_token`, the same way (BERT's files name no
    end of text); then, since nothing says it, [SEP] beside a [MASK], or one of USUAL_ENDS, special tokens first.
    beside: where the tokenizer is from, to be looked at for these files. mend: what the user can do where there is
    none. Raises DataError then, and where a name is none of the tokenizer's.
    """
    if named is not None:
        i = tokenizer.token_to_id(named)
        if i is None:
            raise DataError(f"--eos-token {named}: the tokenizer has no such token{_specials(tokenizer)}")
        return Found(i, "--eos-token")
    if beside is not None:
        notes = notes_of(beside)
        for kind in ("eos", "sep"):
            found = _said(tokenizer, notes, kind, mend)
            if found is not None:
                return found
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    present = {name: i for name in USUAL_ENDS if (i := tokenizer.token_to_id(name)) is not None}
    masked = ["[SEP]"] if tokenizer.token_to_id("[MASK]") is not None and "[SEP]" in present else []
    for name in (*masked, *filter(special.__contains__, present), *present):
        return Found(present[name], GUESSED)
    raise DataError(
        "--tokenizer: nothing says which token ends a text, and it has none of the usual names such as <|endoftext|> "
        f"(no end-of-text token); {mend}, or in a tokenizer_config.json beside it"
        f"{_specials(tokenizer)}"
    )


def frame_of(tokenizer: Tokenizer, beside: str) -> tuple[int, int]:
    """The ids of the tokens that begin and end a row of a network that was trained with them, such as [CLS] and [SEP].

    They are `cls_token` and `sep_token` of the files beside the tokenizer, or what its own post-processor puts around a
    text, one token on either side. Raises DataError where there are none.
    """
    notes = notes_of(beside)
    found = [_said(tokenizer, notes, kind, "mend the file") for kind in ("cls", "sep")]
    ids = [one.id for one in found if one is not None]
    if len(ids) < 2:
        ids = tokenizer.encode("").ids
    if len(ids) != 2:
        raise DataError(
            f"--frame: the tokenizer of {beside} says no tokens that begin and end a row (cls_token and sep_token in a "
            "tokenizer_config.json beside it, or a post-processor that adds them); leave it out"
        )
    return ids[0], ids[1]


def _said(tokenizer: Tokenizer, notes: dict[str, dict[str, Any]], kind: str, mend: str) -> Found | None:
    for file in NOTES:
        name = notes[file].get(f"{kind}_token")
        name = name.get("content") if isinstance(name, dict) else name
        if isinstance(name, str) and name:
            i = tokenizer.token_to_id(name)
            if i is None:
                raise DataError(f"{file}: names {name!r:.60} as {kind}_token, which the tokenizer lacks; {mend}")
            return Found(i, f"{kind}_token of {file}")
    number = notes["config.json"].get(f"{kind}_token_id")
    number = number[0] if isinstance(number, list) and number else number
    if not isinstance(number, int):
        return None
    token = tokenizer.get_added_tokens_decoder().get(number)
    # transformers writes defaults there (2), which may be any letter of this vocabulary
    return Found(number, f"{kind}_token_id of config.json") if token is not None and token.special else None


def _specials(tokenizer: Tokenizer) -> str:
    """The special tokens of a tokenizer, as the end of a message."""
    names = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    return f"; its special tokens are {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}" if names else ""


def _of_hub(repository: str, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The files as the hub, or the cache, has them; where neither can be reached, as if there were none."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    notes: dict[str, dict[str, Any]] = {note: {} for note in names}
    for name in names:
        path = try_to_load_from_cache(repository, name)  # of the commit that the tokenizer was just read from
        if path is None:
            try:
                path = hf_hub_download(repository, name)
            except RemoteEntryNotFoundError:
                continue
            except Exception:  # no network, for instance; to ask for the next would only cost its time-out
                break
        if isinstance(path, str):  # else it is known that there is none
            notes[name] = _json(Path(path))
    return notes


def _json(path: Path) -> dict[str, Any]:
    try:
        return optional_object(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
