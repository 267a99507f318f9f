"""Whether a text can go with a model: its name, its language, its words and its tokens."""

import contextlib
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from mcd.cli.errors import nearest
from mcd.data.languages.known import LANGUAGES, language_of_data
from mcd.data.manifest import read_manifest, values_of_row
from mcd.data.prepare.corpus import BUNDLED
from mcd.data.tokenizer import load_tokenizer, tokenizer_sha256
from mcd.data.tokens import read_tokens
from mcd.errors import UsageError
from mcd.model.denoiser import Denoiser
from mcd.training.trained_on import language_of_model, languages_of_words

CHECKED_TOKENS = 1 << 24
"""Tokens looked through at a time."""


def check_name(data: str, option: str = "--data") -> None:
    """Raise UsageError for what can only be a hub dataset of a short name (no "/", no ".") near a name known here.

    Such datasets are few and old, while a misspelt name would cost the time-outs of the hub.
    """
    known = (*BUNDLED, *LANGUAGES)
    if data and data not in known and not {"/", "."} & set(data) and not Path(data).exists():
        meant = nearest(data.lower(), known)
        if meant:
            raise UsageError(f"{option} {data}: no file here and no known name{meant}")


def check_language(option: str, model: Denoiser, data: str) -> None:
    """Raise UsageError when the model given by `option` is of one synthetic language and `data` is another."""
    knows, given = language_of_model(model.folder), language_of_data(data)
    if knows is not None and given is not None and knows != given:
        raise UsageError(f"--data {data}: is of {given}, and {option} was trained on {knows}; give data of {knows}")


def check_words(option: str, data: str, tokenizer: Tokenizer, model: Path) -> None:
    """Raise UsageError for text where the model is of a synthetic language, and for a language whose words it lacks.

    tokenizer: that of the model in the folder `model`. option: how the message begins.
    """
    digest = tokenizer_sha256(tokenizer)
    known = [name for name, make in LANGUAGES.items() if tokenizer_sha256(make().tokenizer()) == digest]
    if data in LANGUAGES and data not in known:
        raise UsageError(f"{option}: {data} has tokens of its own, which the model does not know; give text")
    if data not in LANGUAGES and (wordy := languages_of_words(model)):
        with contextlib.suppress(UsageError):
            wordy = [language_of_model(model) or wordy[0]]
        raise UsageError(f"{option}: the model knows only the words of {' or '.join(wordy)}; give that language")


def check_ids(data: str, model: Denoiser, folder: Path) -> None:
    """Raise UsageError for prepared data that holds what the model never says, its mask among it."""
    if not model.config.forbidden:
        return
    tokenizer, width = load_tokenizer(folder), values_of_row(read_manifest(folder))
    for split in ("train", "valid"):
        values = read_tokens(folder, split, verify=False)
        step = CHECKED_TOKENS // width * width
        for start in range(0, len(values), step):
            part = values[start : start + step]
            ids = part if width == 1 else part.reshape(-1, width)[:, 2:]
            check_rows(f"--data {data}", ids, model, tokenizer)


def check_rows(option: str, ids: np.ndarray, model: Denoiser, tokenizer: Tokenizer) -> None:
    """Raise UsageError for tokens that the model never says: neither its bound nor its loss would mean anything.

    option: how the message begins.
    """
    found = ids[np.isin(ids, model.config.forbidden)]
    if len(found):
        raise UsageError(
            f"{option}: holds {tokenizer.id_to_token(int(found[0]))}, which the model never says ({len(found):,} such "
            "tokens); take them out, or prepare the text without --special-tokens (names are then text), or with "
            "another --eos-token, where it is that one"
        )
