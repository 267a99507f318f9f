"""Instruction data: records of a prompt and its answer, of which only the answer is to be learnt."""

from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mcd.data.chat import ChatTemplate
from mcd.data.marked_text import Marks
from mcd.data.prepare.corpus import text_of
from mcd.data.prepare.workers import Unit
from mcd.data.recipe import Recipe, is_jinja
from mcd.data.template import words_carry_spaces
from mcd.errors import DataError


class Pairs:
    """Prompts and answers of a recipe whose template is text (`with_template`).

    tokenizer, eos_id: None for one that will be trained on them, and where its end of text does not matter.
    Special tokens come only from the template: their names in a record are text. Raises DataError for a chat template
    without `transformers`.
    """

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer | None, eos_id: int | None = None):
        assert recipe.template is not None
        self.recipe, self.marks = recipe, Marks(tokenizer)
        self.chat = ChatTemplate(recipe.template, self.marks) if is_jinja(recipe.template) else None
        self.eos_id = eos_id
        self._end_of_text = ""
        if tokenizer is not None and eos_id is not None:
            self._end_of_text = self.marks.marked(str(tokenizer.id_to_token(eos_id)))
        if self.chat is None:
            self.marks.check(recipe.template, "--template")
            self._around = [self.marks.marked(part) for part in recipe.template.split("{prompt}")]
            self._space_is_answers = tokenizer is None or words_carry_spaces(tokenizer)

    def texts(self, values: tuple[Any, ...], place: str) -> tuple[str, ...] | None:
        """A record's texts with marks, from the values of `recipe.fields`; None where the answer is blank.

        They are prompt and answer, and with a chat template both together as well. A conversation's last answer is to
        be learnt. Its earlier turns are the prompt, as the chat template has them; without one, each answer is followed
        by the end of text, and the system message comes before the first turn. A space between prompt and answer is
        the answer's where words carry their space. Raises DataError, beginning with `place`, for values that are
        neither texts nor a conversation.
        """
        said = self._said(values, place)
        if not said[-1][1].strip():
            return None
        if self.chat is not None:
            prompt, answer = self.chat.parts(said, place)
            return prompt, answer, prompt + answer
        for _, text in said:
            self.marks.check(text, place)
        prompt, answer = self._prompt(said, place), said[-1][1]
        if self._space_is_answers and prompt.endswith(" "):  # as a space before [MASK] is the mask's (`read_template`)
            return prompt[:-1], f" {answer}"
        return prompt, answer

    def finish(self, unit: Unit) -> None:
        """Make of the ids that `marks.reader()` gave those of prompts and answers, in place.

        An answer of a conversation has the ids that it has behind its prompt where these are as without it: a text does
        not begin there. Else it is tokenised apart, as other answers are, so that the border is exact. An end of text
        that closes it in the template is left off: every row has one.
        """
        assert unit.lost is not None
        unit.ids = self.marks.ids(unit.ids)
        if self.chat is None:
            return
        texts, parts = np.split(unit.ids, np.cumsum(unit.lengths)[:-1]), []
        for prompt, answer, whole in zip(texts[::3], texts[1::3], texts[2::3], strict=True):
            if np.array_equal(whole[: len(prompt)], prompt):
                answer = whole[len(prompt) :]
            parts += [prompt, answer[:-1] if len(answer) and answer[-1] == self.eos_id else answer]
        lost = unit.lost  # every text was read twice
        lost.characters, lost.tokens = lost.characters // 2, lost.tokens // 2
        lost.dropped, lost.unknown = lost.dropped // 2, lost.unknown // 2
        unit.lengths, unit.ids = np.array([len(part) for part in parts]), np.concatenate(parts)

    def _said(self, values: tuple[Any, ...], place: str) -> list[tuple[str, str]]:
        """Roles and what they say, the last of them an assistant."""
        if self.recipe.messages_field is None:
            prompt, answer = (text_of(value, f, place) for value, f in zip(values, self.recipe.fields, strict=True))
            return [("user", prompt), ("assistant", answer)]
        said = _messages(values[0], self.recipe.messages_field, place)
        if not said or said[-1][0] != "assistant":
            raise _no_turns(said, self.recipe.messages_field, place)
        return said

    def _prompt(self, said: list[tuple[str, str]], place: str) -> str:
        """All but the last answer, each turn in the template with {prompt}."""
        system = f"{said[0][1]}\n\n" if said[0][0] == "system" else ""
        turns = said[1:] if said[0][0] == "system" else said
        if [role for role, _ in turns] != ["user", "assistant"] * (len(turns) // 2) or not turns:
            raise _no_turns(said, self.recipe.messages_field, place)
        before, behind = self._around
        prompt = ""
        for (_, asked), (_, answer) in zip(turns[::2], turns[1::2], strict=True):
            prompt += f"{before}{system}{asked}{behind}{answer}{self._end_of_text}"
            system = ""
        return prompt.removesuffix(f"{turns[-1][1]}{self._end_of_text}")


def _no_turns(said: list[tuple[str, str]], field: str | None, place: str) -> DataError:
    roles = ", ".join(role for role, _ in said) or "none"
    return DataError(
        f"{place}: field {field!r} must go from user to assistant by turns and end with an assistant (a system may "
        f"come first, and a chat template may know other roles); its roles are {roles}"
    )


def _messages(value: Any, field: str, place: str) -> list[tuple[str, str]]:
    if not isinstance(value, list) or not all(isinstance(said, dict) for said in value):
        raise DataError(f'{place}: field {field!r} is no list of {{"role", "content"}} objects')
    for said in value:
        if not {"role", "content"} <= said.keys():
            keys = ", ".join(map(repr, said)) or "none"
            fix = "; that is ShareGPT's form: rename from to role, value to content, human to user, gpt to assistant"
            raise DataError(
                f"{place}: a message in field {field!r} has the keys {keys}, where 'role' and 'content' are read"
                + (fix if {"from", "value"} <= said.keys() else "")
            )
    return [(str(said.get("role")), text_of(said.get("content"), f"{field}.content", place)) for said in value]
