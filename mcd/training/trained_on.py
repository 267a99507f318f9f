"""What a model was trained on, as the run.json in its folder says."""

from pathlib import Path

from mcd.checkpoints.locate import locate
from mcd.data.languages.known import LANGUAGES, language_of_data
from mcd.data.manifest import is_prepared, read_manifest
from mcd.data.prepare.corpus import documents
from mcd.data.tokenizer import load_tokenizer, tokenizer_sha256
from mcd.errors import DataError, ModelError, UsageError
from mcd.files import JSONError, read_json


def data_of_model(folder: Path) -> str:
    """The `data` of a model's run.json, or of its teacher's (the bundled teacher: sotu).

    Raises UsageError when the folder does not say, or names text that is not found from here.
    """
    at, seen = folder, set()
    while at not in seen:
        seen.add(at)
        run = at / "run.json"
        data, teacher = _data_and_teacher(run)
        if data:
            try:
                if data not in LANGUAGES and not is_prepared(data):
                    next(documents(data), None)
            except (DataError, OSError) as error:
                raise UsageError(f"{error}; this name is from {run}; give --data") from None
            return data
        if teacher:
            try:
                at = locate(teacher)
            except ModelError as error:
                raise UsageError(f"{error}; {run} names it as the teacher; give --data") from None
    raise UsageError(f"{folder} does not say what it was trained on; give --data")


def language_of_model(folder: Path | None) -> str | None:
    """The synthetic language that the model in a folder was trained on, or None when it was text or nothing says.

    Where its data are not found from here, its words say so. Raises UsageError where those are of several languages.
    """
    if folder is None:
        return None
    try:
        return language_of_data(data_of_model(folder))
    except (UsageError, DataError) as error:
        known = languages_of_words(folder)
        if len(known) > 1:
            words = " and ".join(known)
            raise UsageError(
                f"{folder}: has the words of {words}, and which it is cannot be told ({error}); run the command in the "
                "folder from which the model was trained"
            ) from None
        return known[0] if known else None


def languages_of_words(folder: Path) -> list[str]:
    """The synthetic languages with a vocabulary of their own, and no text, that is the one in a model's folder."""
    try:
        digest = tokenizer_sha256(load_tokenizer(folder))
    except DataError:
        return []
    wordy = [name for name, make in LANGUAGES.items() if make().tokens_of is None]
    return [name for name in wordy if tokenizer_sha256(LANGUAGES[name]().tokenizer()) == digest]


def frame_of_model(folder: Path) -> list[int] | None:
    """The tokens around each row of the prepared data that a model was trained on; None where none are known of."""
    data, _ = _data_and_teacher(folder / "run.json")
    try:
        return read_manifest(Path(data))["frame"] if data and is_prepared(data) else None
    except (DataError, OSError):
        return None


def _data_and_teacher(run: Path) -> tuple[str | None, str | None]:
    """The data and the teacher of a run.json, None for what it does not say."""
    try:
        config = read_json(run, strict=False)["config"]
        data, teacher = config.get("data"), config.get("teacher")
    except (OSError, JSONError, KeyError, TypeError, AttributeError):
        return None, None
    return data if isinstance(data, str) else None, teacher if isinstance(teacher, str) else None
