"""Instruction data: records of a prompt and its answer, of which only the answer is to be learnt."""

from typing import Any

from mcd.data.corpus import text_of
from mcd.data.readers import DataError
from mcd.data.recipe import Recipe


def pair_of(values: tuple[Any, ...], recipe: Recipe, end_of_text: str, place: str) -> tuple[str, str]:
    """The prompt, in the recipe's template, and the answer of a record: the values of `recipe.fields`.

    A conversation's last answer is to be learnt; its earlier turns, each answer followed by `end_of_text`, are the
    prompt, and what the system says stands before the first. Raises DataError, beginning with `place`, for values that
    are neither texts nor a conversation.
    """
    if recipe.messages_field is None:
        prompt, answer = (text_of(value, field, place) for value, field in zip(values, recipe.fields, strict=True))
        return recipe.template.replace("{prompt}", prompt), answer
    said = _messages(values[0], recipe.messages_field, place)
    system = f"{said.pop(0)[1]}\n\n" if said and said[0][0] == "system" else ""
    roles = [role for role, _ in said]
    if not said or roles != ["user", "assistant"] * (len(said) // 2):
        raise DataError(
            f"{place}: field {recipe.messages_field!r} must go from user to assistant by turns and end with an "
            f"assistant (a system may come first); its roles are {', '.join(roles) or 'none'}"
        )
    texts = [text for _, text in said]
    prompt = ""
    for i in range(0, len(texts), 2):
        prompt += recipe.template.replace("{prompt}", system + texts[i])
        system = ""
        if i + 2 < len(texts):
            prompt += texts[i + 1] + end_of_text
    return prompt, texts[-1]


def _messages(value: Any, field: str, place: str) -> list[tuple[str, str]]:
    if not isinstance(value, list) or not all(isinstance(said, dict) for said in value):
        raise DataError(f'{place}: field {field!r} is no list of {{"role", "content"}} objects')
    for said in value:
        if not {"role", "content"} <= said.keys():
            keys = ", ".join(map(repr, said)) or "none"
            mend = "; that is ShareGPT's form: rename from to role, value to content, human to user, gpt to assistant"
            raise DataError(
                f"{place}: a message in field {field!r} has the keys {keys}, where 'role' and 'content' are read"
                + (mend if {"from", "value"} <= said.keys() else "")
            )
    return [(str(said.get("role")), text_of(said.get("content"), f"{field}.content", place)) for said in value]
