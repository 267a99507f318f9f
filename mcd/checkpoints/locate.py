"""Where a model is: MODEL of the commands to a folder on this machine."""

from pathlib import Path

from mcd.checkpoints import smollm
from mcd.checkpoints.weights import PICKLED, is_pickle
from mcd.errors import ModelError
from mcd.hub_access import hub_access

DEMO = Path(__file__).resolve().parent.parent / "assets" / "demo"
FETCHED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.py", "LICENSE*", "NOTICE*")
"""What is fetched of a model on the hub. Its code (.py) is kept for `transformers`; nothing here runs it."""


def locate(name: str, revision: str | None = None, files: list[str] | None = None) -> Path:
    """The folder of MODEL: "demo" (the bundled teacher), a local folder, or a hub id (needs the `hub` extra).

    revision: a branch, tag or commit of the hub. files: patterns of what is fetched; all by default. Raises ModelError
    when there is no such model, or no such revision.
    """
    if name == "demo":
        return DEMO
    if name == smollm.NAME:
        raise ModelError(f"{name}: is autoregressive: `mcd adapt {name}` makes a masked model out of it")
    path = Path(name)
    try:
        is_folder = path.is_dir()
    except OSError as error:  # such as a name that is too long
        raise ModelError(f"{name:.60}: no such model folder ({error.strerror})") from None
    if is_folder:
        if not (path / "config.json").is_file():
            if (path / "run.json").is_file():
                raise ModelError(f"{name}: is a run that is not finished; to resume it, run its command again")
            raise ModelError(f"{name}: no config.json in this folder; a model is config.json + model.safetensors")
        return path
    if path.is_file():
        fix = f"of a checkpoint of MDLM, SDTT or Duo `mcd import {path} --out DIR` makes one"
        if path.suffix in PICKLED or is_pickle(path):
            raise ModelError(
                f"{path}: is a pickle, which can run code when it is read; a model is a folder: {fix} and runs nothing"
            )
        raise ModelError(
            f"{path}: is a file; a model is a folder" + (f": {fix}" if path.suffix == ".safetensors" else "")
        )
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(f"{name}: no such model folder (a model is a folder, a hub id OWNER/NAME, or demo)")
    from huggingface_hub import snapshot_download

    with hub_access() as access:
        try:
            return Path(snapshot_download(name, revision=revision, allow_patterns=files))
        except Exception as error:  # the hub client raises many kinds; all mean the same to the user
            asked = name if revision is None else f"{name} at revision {revision}"
            raise ModelError(f"{asked}: no such folder, and {access.refusal(error)}") from None
