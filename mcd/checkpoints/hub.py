"""Publish models on the Hugging Face hub, or write exactly the same files to a local folder."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from mcd.checkpoints.config import base_of, read_config
from mcd.checkpoints.folder import companions_of
from mcd.checkpoints.import_ import ORIGIN
from mcd.checkpoints.weights import FACTORS_CONFIG, WEIGHTS, check_finite, open_safetensors, parts_of_weights
from mcd.errors import HubError, ModelError

CARD = "README.md"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def published(model: Path, card: str) -> dict[str, Path | bytes]:
    """The files of a model that are published, by name: configuration, weights, adapter, tokenizer, origin, card.

    The records of a run (run.json, metrics.json) are not published, since they name paths of a machine.
    Raises ModelError when the folder holds no whole model, weights that are not finite, or factors whose base is a
    folder of this machine.
    """
    read_config(model)
    base = base_of(model)
    if base is not None and is_folder_name(base.name):
        raise ModelError(
            f"{model}: holds factors of LoRA for {base.name}, a folder that nobody else has; `mcd adapt` a hub id "
            "instead, or train without --lora-rank"
        )
    weights = parts_of_weights(model / WEIGHTS["ema"])
    for part in weights:
        if not part.is_file():
            raise ModelError(f"{part}: missing; is this run still training, or the copy incomplete?")
    raw = parts_of_weights(model / WEIGHTS["raw"])
    for path in (*weights, *raw):
        if path.is_file():
            for name, tensor in open_safetensors([path])[0].items():
                check_finite({name: tensor.read()}, str(path))
    names = ["config.json", *(part.name for part in (*weights, *raw)), f"{WEIGHTS['ema']}.index.json"]
    names += [FACTORS_CONFIG] if base is not None else []
    names += ["tokenizer.json", ORIGIN, *(path.relative_to(model).as_posix() for path in companions_of(model))]
    names += [f"adapter/{path.name}" for path in sorted((model / "adapter").glob("adapter_*"))]
    files: dict[str, Path | bytes] = {name: model / name for name in names if (model / name).is_file()}
    return {**files, CARD: card.encode()}


def is_folder_name(name: str) -> bool:
    """Whether `name` can only be a local folder, not a hub id: a path, or file://PATH."""
    return name.startswith((".", "/", "~", "file://"))


def write_published(files: Mapping[str, Path | bytes], folder: Path) -> None:
    """Write what would be uploaded into `folder`. Raises OSError when the disk refuses."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            shutil.copyfile(content, folder / name)


def push_to_hub(files: Mapping[str, Path | bytes], hub_id: str, private: bool = False, revision: str = "main") -> str:
    """Upload files of `published` in one commit, into a repository that is made where there is none; returns its URL.

    revision: the branch, likewise made where there is none. The token is what `hf auth login` stored, or HF_TOKEN.
    Raises ModelError for an id that is none and when the hub refuses (no token, not yours), HubError when it fails.
    """
    if not HUB_ID.fullmatch(hub_id):
        raise ModelError(f"{hub_id}: no hub id; give OWNER/NAME, or a folder such as ./{Path(hub_id).name or 'out'}")
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content if isinstance(content, bytes) else str(content))
        for name, content in files.items()
    ]
    api = HfApi()
    try:
        api.create_repo(hub_id, private=private, exist_ok=True)
        if revision != "main":
            api.create_branch(hub_id, branch=revision, exist_ok=True)
        done = api.create_commit(hub_id, operations, commit_message="Upload by mcd push", revision=revision)
        return str(done.commit_url)
    except Exception as error:  # the hub client raises many kinds
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = " ".join(str(error).split())[:300]
        if status in (401, 403) or type(error).__name__ == "LocalTokenNotFoundError":
            raise ModelError(
                f"{hub_id}: the hub refuses ({status or 'no token'}); log in with `hf auth login`, or set HF_TOKEN to "
                f"a token that may write there: {said}"
            ) from None
        raise HubError(f"{hub_id}: not pushed ({type(error).__name__}: {said})") from None
