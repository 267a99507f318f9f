"""Chat templates: the Jinja of a tokenizer's folder, as `transformers` renders it, in its sandbox.

https://huggingface.co/docs/transformers/chat_templating says what such a template is given: `messages`,
`add_generation_prompt`, names of special tokens such as `bos_token`; `{% generation %}` marks what an assistant says.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mcd.data.encoder import text_tokenizer
from mcd.data.marked_text import CLOSE, OPEN, Marks
from mcd.data.recipe import Recipe, is_jinja
from mcd.data.special_tokens import NAMING, HubSilent, file_beside, notes_beside
from mcd.errors import DataError, UsageError

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_CLOCK = (
    "{% macro strftime_now(format) %}{{ format | replace('%d', '26') | replace('%m', '07') | replace('%b', 'Jul') "
    "| replace('%B', 'July') | replace('%Y', '2024') }}{% endmacro %}\n"
)
"""A fixed clock, on the day that templates without a clock name: data must not depend on the day."""
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def with_template(recipe: Recipe) -> tuple[Recipe, str | None]:
    """A recipe of instruction data with its template as text, and where that is from (None for one that was given).

    Without a template, that of the tokenizer, else the prompt alone. A Jinja template begins with the values of what
    it uses of the tokenizer (`{% set bos_token = ... %}`), so that it alone decides what is rendered. Raises DataError
    for a file that is not there, and where the hub does not say whether the tokenizer has a template.
    """
    template, source = recipe.template, None
    if template is None:
        template, source = _own_template(recipe.tokenizer)
    elif template.endswith(".jinja") and not is_jinja(template):
        template = _read(Path(template), f"--template {template}:")
        if not is_jinja(template):
            raise DataError(f"--template {recipe.template}: holds no Jinja, neither {{{{ }}}} nor {{% %}}")
    if is_jinja(template):
        template = _with_values(template, _notes(recipe.tokenizer))
    return replace(recipe, template=template), source


def chat_prompt(folder: Path, tokenizer: Tokenizer, text: str, blank_id: int, length: int) -> tuple[str, list[int]]:
    """What a user's `text` is rendered to, up to where the answer begins, and the row: that, then masks up to `length`.

    folder: the model's, which holds the chat template. Special tokens come only from it, as in instruction data.
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


class ChatTemplate:
    """A Jinja template, rendered so that what messages hold stays text."""

    def __init__(self, template: str, marks: Marks):
        from transformers.utils.chat_template_utils import render_jinja_template

        marks.check(template, "--template")
        self.template, self.marks, self._render_jinja = template, marks, render_jinja_template
        self.tracks = _GENERATION.search(template) is not None

    def parts(self, messages: list[tuple[str, str]], place: str) -> tuple[str, str]:
        """The conversation up to its last message, an assistant's, and that with what closes it, with marks.

        messages: pairs of a role and a content. The second part begins where the template's `{% generation %}` does,
        else where the rendering of all before, with `add_generation_prompt`, ends. It ends with the last special token,
        if only white space follows. Raises DataError, beginning with `place`, where the template refuses the
        conversation, where a content is not in what it renders (white space around it aside), and where it does not say
        where the answer begins.
        """
        said = self._guarded(messages, place)
        whole, spans = self._render(said, place)
        if self.tracks and spans:
            begin = spans[-1][0]
        elif whole.startswith(before := self._render(said[:-1], place, True)[0]):
            begin = len(before)
        else:
            raise DataError(
                f"{place}: the chat template does not say where the answer begins: what it renders up to there, "
                f"{before[-40:]!r}, is not how the whole conversation begins; mark the answer in a template of your "
                "own by {% generation %}: --template FILE.jinja"
            )
        prompt, answer = whole[:begin], whole[begin:]
        trimmed = answer.rstrip()
        if any(trimmed.endswith(name) for name in self.marks.names):
            answer = trimmed
        self._check(prompt, messages[:-1], place)
        self._check(answer, messages[-1:], place)
        return self._marked(prompt), self._marked(answer)

    def prompt(self, messages: list[tuple[str, str]], place: str) -> str:
        """A conversation that waits for an answer, with marks. Raises DataError as `parts`."""
        rendered = self._render(self._guarded(messages, place), place, True)[0]
        self._check(rendered, messages, place)
        return self._marked(rendered)

    def _guarded(self, messages: list[tuple[str, str]], place: str) -> list[dict[str, str]]:
        """Messages as templates take them, in which no special token is spelled."""
        for part in (part for message in messages for part in message):
            self.marks.check(part, place)
        return [{"role": self.marks.guarded(role), "content": self.marks.guarded(text)} for role, text in messages]

    def _check(self, rendered: str, messages: list[tuple[str, str]], place: str) -> None:
        """Raise DataError for a content that was changed in rendering, white space around it aside."""
        for role, text in messages:
            if text.strip() not in self.marks.freed(rendered):
                raise DataError(
                    f"{place}: the chat template leaves out or changes what the {role} says, {text.strip()[:40]!r}; "
                    "change the text, or give a template of your own: --template FILE.jinja"
                )

    def _marked(self, rendered: str) -> str:
        return self.marks.freed(self.marks.marked(rendered))

    def _render(self, said: list[dict[str, str]], place: str, answer_follows: bool = False) -> tuple[str, Any]:
        """The text, and the spans of it that an assistant says, where the template marks them."""
        try:
            texts, spans = self._render_jinja(
                [said],
                chat_template=self.template,
                return_assistant_tokens_mask=self.tracks,
                add_generation_prompt=answer_follows,
            )
        except Exception as error:  # Jinja raises many kinds, and templates what they like
            fault = " ".join(str(error).split())[:300]
            raise DataError(
                f"--template: at {place} the chat template fails ({type(error).__name__}: {fault})"
            ) from None
        return texts[0], spans[0] if spans else []


def _notes(tokenizer: str | None) -> dict[str, Any]:
    """What the files next to a tokenizer say together; where both say a thing, the first one decides."""
    notes: dict[str, Any] = {}
    if tokenizer is not None:
        said = notes_beside(tokenizer)
        for name in reversed(NAMING):
            notes |= {key: value for key, value in said[name].items() if value is not None}
    return notes


def _own_template(tokenizer: str | None) -> tuple[str, str | None]:
    """The chat template of a tokenizer and where it is from; "{prompt}" and None where it has none."""
    try:
        path = None if tokenizer is None else file_beside(tokenizer, "chat_template.jinja")
    except HubSilent as error:
        raise DataError(
            f"--tokenizer {tokenizer}: the hub did not say whether it has a chat template ({error}); "
            "ask again, name a copy in a folder, or give a --template, such as '{prompt}'"
        ) from None
    if path is not None:
        return _read(
            path, f"--tokenizer {tokenizer}: {path.name}"
        ), f"the chat template of {tokenizer} (chat_template.jinja)"
    found = _notes(tokenizer).get("chat_template")
    if isinstance(found, list):  # several by name
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
        if found is None:
            names = ", ".join(map(str, named))
            raise DataError(
                f"--tokenizer {tokenizer}: its chat templates are {names}, none of them the default; "
                "give one: --template FILE.jinja"
            )
    if isinstance(found, str):
        return found, f"the chat template of {tokenizer} (tokenizer_config.json)"
    return "{prompt}", None


def _with_values(template: str, notes: dict[str, Any]) -> str:
    """A template before which the special tokens of the tokenizer that it uses are set, and a clock if it asks for one.

    A newline behind a statement is not rendered, so the template still begins a line.
    """
    values = ""
    for name in _NAMES:
        value = notes.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str) and re.search(rf"\b{name}\b", template) and f"set {name} =" not in template:
            values += f"{{% set {name} = {json.dumps(value, ensure_ascii=False)} %}}\n"
    if "strftime_now" in template and "macro strftime_now" not in template:
        values += _CLOCK
    return values + template


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{what} cannot be read ({error})") from None
