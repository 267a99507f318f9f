"""`--data` of the training commands: a prepared folder, or text that is prepared on the way."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mcd.app.errors import UsageError
from mcd.data.shards import MANIFEST, Recipe, prepare, read_manifest
from mcd.data.tokenizer import load_tokenizer, tokenizer_sha256
from mcd.model.pretrained import locate


def prepared(data: str, cache: Path, tokenizer: Path | None = None, **options: Any) -> Path:
    """The prepared folder of `data`: itself if it is one, else text prepared into a folder below `cache`.

    tokenizer: a model's tokenizer.json, which then also checks a folder prepared before.
    Raises UsageError when the folder's tokenizer is not the model's.
    """
    folder = Path(data)
    if (folder / MANIFEST).is_file():
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
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache / f"{Path(data).stem}-{name}"
    prepare(recipe, folder)
    return folder


def data_of_model(model: Path) -> str:
    """What a model was trained on: the `data` of its run.json, or of its config (the bundled teacher: sotu).

    Raises UsageError when the folder does not say.
    """
    run = model / "run.json"
    if run.is_file():
        config = json.loads(run.read_text(encoding="utf-8"))["config"]
        if config.get("data"):
            return config["data"]
        if config.get("teacher"):
            return data_of_model(locate(config["teacher"]))
    raise UsageError(f"{model} does not say what it was trained on; give --data")
