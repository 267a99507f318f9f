"""`--data` of the training commands: a prepared folder, or text that is prepared on the way."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mcd.checkpoints.folder import locate
from mcd.cli.errors import nearest
from mcd.data.encoder import Lost
from mcd.data.languages.known import LANGUAGES
from mcd.data.manifest import FORMATS, MANIFEST, read_manifest, values_of_row
from mcd.data.prepare.corpus import BUNDLED, documents, files_of, source_sha256
from mcd.data.prepare.hub import HubStopped
from mcd.data.prepare.pipeline import prepare
from mcd.data.prepare.records import source_of
from mcd.data.prepare.workers import WorkerDied
from mcd.data.recipe import Recipe
from mcd.data.tokenizer import load_tokenizer, tokenizer_sha256, word_tokenizer
from mcd.data.tokens import read_tokens
from mcd.errors import DataError, ModelError, UsageError, WorkFailed
from mcd.machine import usable_cores
from mcd.model.denoiser import Denoiser
from mcd.progress import progress_bar
from mcd.train.run_record import trained_on

CHECKED_TOKENS = 1 << 24
"""Tokens looked through at a time."""


def prepared(data: str, cache: Path, tokenizer: Path | None = None, **options: Any) -> Path:
    """The prepared folder of `data`: itself if it is one, else text prepared into a folder below `cache`.

    The folder's name tells the recipe and the text apart, so that edited text is prepared anew.
    tokenizer: a model's tokenizer.json, which then also checks a folder prepared before.
    Raises UsageError when the folder's tokenizer is not the model's, or one of the two is a language and not both;
    and for a name that is nothing here and near something that is.
    """
    folder = Path(data)
    if data and (folder / MANIFEST).is_file():
        if tokenizer is not None:
            expected = tokenizer_sha256(load_tokenizer(tokenizer))
            if read_manifest(folder)["tokenizer_sha256"] != expected:
                check_words(
                    f"--data {data}", language_of_data(data) or data, load_tokenizer(tokenizer), tokenizer.parent
                )
                raise UsageError(
                    f"--data {data}: prepared with another tokenizer than the model's; "
                    f"prepare it again: mcd prepare --data TEXT --tokenizer {tokenizer.parent} --out NEW"
                )
        return folder
    check_name(data)
    fingerprint = source_sha256(data)
    if tokenizer is not None:
        check_words(f"--data {data}", data, load_tokenizer(tokenizer), tokenizer.parent)
    recipe = Recipe(source=data, tokenizer=None if tokenizer is None else str(tokenizer), **options)
    identity = {**recipe.identity(), "format": FORMATS[-1]}
    if tokenizer is not None:
        identity["tokenizer"] = tokenizer_sha256(load_tokenizer(tokenizer))
    if fingerprint is not None:
        identity["source_sha256"] = fingerprint
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache / f"{Path(data).stem}-{name}"
    prepare_shown(recipe, folder)
    return folder


def prepare_shown(
    recipe: Recipe, out: Path, workers: int | None = None, most_lost: float | None = None
) -> dict[str, Any]:
    """`prepare` with its progress shown, by as many processes as there are cores; returns the manifest.

    What of the text is passed over, left out, there twice or lost by the tokenizer is told on stderr. Raises WorkFailed
    where the machine or the hub stopped it, DataError as `prepare`.
    """
    cores, _ = usable_cores()
    if recipe.source not in LANGUAGES:
        tell_notes(files_of(source_of(recipe)).notes())
    with progress_bar(out.name) as update:

        def tell(done: float | None, note: str) -> None:
            update(done or 0.0, note)

        try:
            manifest = prepare(recipe, out, workers=workers or cores, tell=tell, most_lost=most_lost)
        except (HubStopped, WorkerDied) as error:
            raise WorkFailed(str(error)) from None
    tell_notes(notes_of(manifest))
    return manifest


def tell_notes(notes: list[str]) -> None:
    """Print notes to stderr; of the processes of a job only the first one does."""
    if os.environ.get("RANK", "0") == "0":
        for note in notes:
            print(f"mcd: {note}", file=sys.stderr, flush=True)


def notes_of(manifest: dict[str, Any]) -> list[str]:
    """What there is to say about the text of prepared data: what was left out or lost, and what is there twice."""
    whys = {
        "null": "a field is null",
        "blank": "the answer is blank" if manifest["packing"] == "rows" else "blank",
        "copies": "copies of earlier ones (--dedup)",
    }
    source = f"--data {manifest['recipe']['source']}"
    left_out = manifest.get("left_out", {})
    notes = [
        f"{source}: {_count(left_out[why], 'record is', 'records are')} left out: {what}"
        for why, what in whys.items()
        if left_out.get(why)
    ]
    copies = manifest.get("duplicates", {})
    for split, what in (("train", "train"), ("valid", "the held-out part")):
        if copies.get(split):
            count = _count(copies[split], "copy", "copies")
            notes.append(f"{source}: {what} holds {count} of its other documents; --dedup leaves them out")
    if copies.get("shared"):
        held_out = sum(shard["documents"] for shard in manifest["splits"]["valid"])
        notes.append(
            f"{source}: of {held_out:,} held-out documents {_count(copies['shared'], 'is', 'are')} also in train, so "
            "that what is measured on them is too good; prepare the data anew with --dedup"
        )
    if told := Lost(**manifest.get("lost", {})).told:
        notes.append(f"{source}: {told}")
    return notes


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def data_of_model(model: Path) -> str:
    """What a model was trained on: the `data` of its run.json, or of its teacher's (the bundled teacher: sotu).

    Raises UsageError when the folder does not say, or names text that is not found from here.
    """
    folder, seen = model, set()
    while folder not in seen:
        seen.add(folder)
        data, teacher = trained_on(folder / "run.json")
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
    return None if model.folder is None else _language_at(model.folder)


def language_of_data(data: str) -> str | None:
    """The known language that `data` names, or that a prepared folder was made from; None for text."""
    source = read_manifest(Path(data))["recipe"]["source"] if data and (Path(data) / MANIFEST).is_file() else data
    return source if source in LANGUAGES else None


def check_language(option: str, model: Denoiser, data: str) -> None:
    """Raise UsageError when the model given by `option` is of one known language and `data` is another."""
    knows, given = language_of(model), language_of_data(data)
    if knows is not None and given is not None and knows != given:
        raise UsageError(f"--data {data}: is of {given}, and {option} was trained on {knows}; give data of {knows}")


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
    """Raise UsageError for tokens that the model never says: its bound would be of no text, its loss of nothing learnt.

    option: how the message begins.
    """
    found = ids[np.isin(ids, model.config.forbidden)]
    if len(found):
        raise UsageError(
            f"{option}: holds {tokenizer.id_to_token(int(found[0]))}, which the model never says ({len(found):,} such "
            "tokens); take them out, or prepare the text without --special-tokens (names are then text), or with "
            "another --eos-token, where it is that one"
        )


def check_words(option: str, data: str, tokenizer: Tokenizer, model: Path) -> None:
    """Raise UsageError for text in front of a model of a known language, and for a language a model has no words of.

    tokenizer: that of the model in the folder `model`. option: how the message begins.
    """
    digest = tokenizer_sha256(tokenizer)
    known = [name for name, make in LANGUAGES.items() if tokenizer_sha256(word_tokenizer(make().symbols)) == digest]
    if data in LANGUAGES and data not in known:
        raise UsageError(f"{option}: {data} has words of its own, which the model does not know; give text")
    if data not in LANGUAGES and known:
        name = _language_at(model) or " or ".join(known)
        raise UsageError(f"{option}: the model knows the words of {name} alone; give that language")


def check_name(data: str, option: str = "--data") -> None:
    """Raise UsageError for what can only be a hub dataset of a short name (no "/", no ".") near a name known here.

    Such datasets are few and old; a slip of the pen would cost the time-outs of the hub.
    """
    known = (*BUNDLED, *LANGUAGES)
    if data and data not in known and not {"/", "."} & set(data) and not Path(data).exists():
        meant = nearest(data.lower(), known)
        if meant:
            raise UsageError(f"{option} {data}: no file here and no known name{meant}")


def _language_at(folder: Path) -> str | None:
    try:
        return language_of_data(data_of_model(folder))
    except (UsageError, DataError):
        return None


def _must_be_found(data: str, run: Path) -> None:
    try:
        if data not in LANGUAGES and not (Path(data) / MANIFEST).is_file():
            next(documents(data), None)
    except (DataError, OSError) as error:
        raise UsageError(f"{error}; this name is from {run}; give --data") from None
