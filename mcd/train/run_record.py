"""What the run.json of a model's folder says it was trained on."""

from pathlib import Path

from mcd.data.manifest import MANIFEST, read_manifest
from mcd.errors import DataError
from mcd.files import JSONError, read_json


def trained_on(run: Path) -> tuple[str | None, str | None]:
    """The data and the teacher of a run.json, None for what it does not say."""
    try:
        config = read_json(run, strict=False)["config"]
        data, teacher = config.get("data"), config.get("teacher")
    except (OSError, JSONError, KeyError, TypeError, AttributeError):
        return None, None
    return data if isinstance(data, str) else None, teacher if isinstance(teacher, str) else None


def frame_of_data(folder: Path) -> list[int] | None:
    """The tokens around each row of the prepared data that a model was trained on; None where none are known of."""
    data, _ = trained_on(folder / "run.json")
    try:
        return read_manifest(Path(data))["frame"] if data and (Path(data) / MANIFEST).is_file() else None
    except (DataError, OSError, KeyError):
        return None
