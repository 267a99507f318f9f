"""A tokenizer that a command has changed, in a folder of its own, from which data is prepared and models take it."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mcd.checkpoints.folder import copy_companions
from mcd.data.tokenizer import tokenizer_sha256
from mcd.files import atomic_folder, write_durably, write_json


def tokenizer_folder(
    cache: Path, model: str, tokenizer: Tokenizer, notes: dict[str, Any], source: Path | None, chat_template: str = ""
) -> Path:
    """A folder below `cache` with `tokenizer`, made from that of `model`, and licences; made once, named by a hash.

    notes: its tokenizer_config.json. source: the folder of `model`, whose other files are copied; where there is none,
    `chat_template` is written.
    """
    folder = cache / f"{Path(model).name}-tokenizer-{tokenizer_sha256(tokenizer)[:12]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as partial:
        partial.mkdir()
        write_durably(partial / "tokenizer.json", tokenizer.to_str())
        if source is not None:
            copy_companions(source, partial)
        elif chat_template:
            write_durably(partial / "chat_template.jinja", chat_template)
        write_json(partial / "tokenizer_config.json", notes)
    return folder
