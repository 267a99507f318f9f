"""`mcd sample --chat`: a message as the model's own chat template puts it to the model."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from mcd.data.chat import ChatTemplate, with_template
from mcd.data.encoder import text_tokenizer
from mcd.data.marks import CLOSE, OPEN, Marks
from mcd.data.recipe import Recipe, is_jinja
from mcd.errors import UsageError


def chat_prompt(folder: Path, tokenizer: Tokenizer, text: str, blank_id: int, length: int) -> tuple[str, list[int]]:
    """What a user's `text` is rendered to, up to where the answer begins, and the row: that, then masks up to `length`.

    folder: the model's, which holds the chat template. Special tokens come from it alone, as in instruction data.
    Raises UsageError where it has none and for a row without room, DataError for a template that cannot be used.
    """
    template = with_template(Recipe("", tokenizer=str(folder), prompt_field="prompt"))[0].template
    if template is None or not is_jinja(template):
        raise UsageError(f"--chat: {folder} has no chat template (chat_template.jinja); give the prompt as --template")
    marks = Marks(tokenizer)
    rendered = ChatTemplate(template, marks).prompt([("user", text)], "--chat")
    read = text_tokenizer(marks.reader()).encode(rendered, add_special_tokens=False).ids
    ids = marks.ids(np.array(read, np.int64)).tolist()
    if len(ids) >= length:
        raise UsageError(f"--chat: takes {len(ids)} tokens and leaves none of --length {length}; raise --length")
    return rendered.replace(OPEN, "").replace(CLOSE, ""), ids + [blank_id] * (length - len(ids))
