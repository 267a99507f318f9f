"""Choices of a recipe that would change nothing: what is read, or another choice, has no use for them."""

from mcd.data.languages.known import LANGUAGES
from mcd.data.prepare.corpus import BUNDLED, files_of
from mcd.data.prepare.readers import suffix_of
from mcd.data.prepare.units import source_of
from mcd.data.recipe import Recipe

_OF_INSTRUCTIONS = ("template", "too_long", "diffuse_padding")
_OF_LANGUAGES = ("length", "source", "tokenizer", "wrap", "prompt_field")
"""What a language takes, or refuses with a reason of its own."""


def idle(recipe: Recipe) -> dict[str, str]:
    """The fields of `recipe` that change nothing, each with the reason. Raises DataError as `files_of`."""
    if recipe.source in LANGUAGES:
        reason = f"--data {recipe.source} is a stream of tokens of its own, of which --length alone can be chosen"
        return dict.fromkeys(Recipe.__dataclass_fields__.keys() - set(_OF_LANGUAGES), reason)
    reasons: dict[str, str] = {}
    layout = files_of(source_of(recipe))
    if layout.files:
        reason = f"it is of datasets of the hub, and --data {recipe.source} is read from this machine"
        reasons |= dict.fromkeys(("subset", "revision"), reason)
        if layout.split is None:
            where = "bundled" if recipe.source in BUNDLED else "on this machine"
            reasons["split"] = f"--data {recipe.source} is {where}, and its files do not say of which split they are"
    if recipe.packing != "rows":
        reason = "it is an option of instruction data (--prompt-field or --messages-field)"
        reasons |= dict.fromkeys(("answer_field", *_OF_INSTRUCTIONS), reason)
        if layout.files and all(suffix_of(path) == ".txt" for path in layout.files):
            reasons["text_field"] = "a .txt has no fields"
    else:
        reasons["text_field"] = "prompts and answers are read, and no text beside them"
        if recipe.messages_field is not None:
            reasons["answer_field"] = "the answers are in --messages-field"
    if recipe.tokenizer is not None:
        reasons["vocab_size"] = f"it is of a tokenizer that is trained on the text, and {recipe.tokenizer} is given"
    if recipe.valid_last:
        reasons["valid_every"] = f"--valid-last {recipe.valid_last} says what is held out"
    return reasons
