"""How text becomes tokens: every choice that the bytes of prepared data depend on."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from mcd.errors import DataError

Packing = Literal["stream", "groups", "rows"]
MOST_TOKENS = 1 << 24
"""The longest row there may be."""


@dataclass(frozen=True)
class Recipe:
    """How text becomes tokens. `valid_every`: each so many-th document is held out (document 0 first).

    valid_last: hold out the last so many documents in its place. wrap: rows begin and end with <|endoftext|>, as in
    MDLM; else they are cut from the stream as it is. group_documents: MDLM's grouping (arXiv 2406.07524, public code):
    the tokens of so many documents that do not fill a row are left out, and empty documents count (as an
    <|endoftext|> alone); 0 keeps one stream. subset, split, revision: of a dataset of the hub; split also of a folder
    whose files say of which one they are. dedup: of documents (prompts with their answers) with the same text the first
    is kept, so that none is both in train and held out.

    Instruction data has `prompt_field` and `answer_field`, or `messages_field` (a list of {"role", "content"}).
    template: the text of a prompt, with {prompt} in it, or a chat template in Jinja or a FILE.jinja; None for the chat
    template of the tokenizer, else the prompt as it is (`mcd.data.chat.with_template`). too_long: what becomes of a
    prompt and answer that are longer than a row: "drop" leaves them out, "cut" takes the beginning off the prompt.
    diffuse_padding: the end of text that fills a row is learnt too, as LLaDA does (arXiv 2502.09992, Section 2.3), so
    that a model finds where its answer ends; else it is shown in training, and the model expects to be given the length
    of its answer.

    eos_token: the name of the token that ends a text, where the tokenizer's own files say none or another.
    special_tokens: names of special tokens that a text spells become these; else they are text as any other.
    frame: rows begin and end with what the tokenizer puts around a text, [CLS] and [SEP], as the network was trained
    with; these are always visible and not learnt.

    A language has its own tokens and two streams: of these choices it takes `length` alone.
    """

    source: str
    text_field: str = "text"
    tokenizer: str | None = None
    vocab_size: int = 4096
    length: int = 128
    wrap: bool = False
    valid_every: int = 16
    valid_last: int = 0
    group_documents: int = 0
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    prompt_field: str | None = None
    answer_field: str = "answer"
    messages_field: str | None = None
    template: str | None = None
    too_long: str = "drop"
    diffuse_padding: bool = True
    dedup: bool = False
    eos_token: str | None = None
    special_tokens: bool = False
    frame: bool = False

    @property
    def packing(self) -> Packing:
        """What shards hold: "stream", documents one after the other; "groups", MDLM's grouping of them; "rows"."""
        if self.prompt_field is not None or self.messages_field is not None:
            return "rows"
        return "groups" if self.group_documents else "stream"

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a record that are read."""
        if self.messages_field is not None:
            return (self.messages_field,)
        return (self.text_field,) if self.prompt_field is None else (self.prompt_field, self.answer_field)

    @property
    def arity(self) -> int:
        """Texts of a record: a document, or a prompt and its answer."""
        return 2 if self.packing == "rows" else 1

    @property
    def stride(self) -> int:
        """Tokens of the text that a row takes."""
        return self.length - 2 if self.wrap or self.frame else self.length

    def identity(self) -> dict[str, Any]:
        """The choices as JSON values; those that came later than the others only where they are made.

        How padding is learnt is always said of instruction data: its default was once another.
        """
        first = ["source", "text_field", "tokenizer", "vocab_size", "length", "wrap", "valid_every"]
        first += ["diffuse_padding"] if self.packing == "rows" else []
        default = {field.name: field.default for field in fields(self)}
        return {k: v for k, v in asdict(self).items() if k in first or v != default[k]}

    def check(self) -> None:
        """Raise DataError, naming the option, for choices that make no sense, alone or together."""
        if self.valid_every < 2:
            raise DataError(f"--valid-every {self.valid_every}: must be at least 2")
        if self.valid_last < 0:
            raise DataError(f"--valid-last {self.valid_last}: must not be negative")
        least = 3 if self.wrap or self.frame else 1
        if not least <= self.length <= MOST_TOKENS:
            raise DataError(f"--length {self.length}: must be at least {least}, and at most {MOST_TOKENS:,}")
        if self.group_documents < 0:
            raise DataError(f"--group-documents {self.group_documents}: must not be negative")
        if self.group_documents and not self.wrap:
            raise DataError(f"--group-documents {self.group_documents}: is of wrapped rows; add --wrap")
        if self.frame and (self.wrap or self.packing == "rows"):
            other = "--wrap" if self.wrap else "--prompt-field" if self.prompt_field else "--messages-field"
            raise DataError(f"--frame: puts its tokens around rows of text; not together with {other}")
        if self.frame and self.tokenizer is None:
            raise DataError("--frame: a BPE trained on the text has no tokens for it; give the network's --tokenizer")
        if self.too_long not in ("drop", "cut"):
            raise DataError(f"--too-long {self.too_long}: must be drop or cut")
        if self.prompt_field is not None and self.messages_field is not None:
            raise DataError("--messages-field: in place of --prompt-field, not beside it")
        if self.packing == "rows":
            if self.wrap or self.group_documents:
                raise DataError("--wrap: prompts and answers are rows of their own; leave it out")
            template = "{prompt}" if self.template is None else self.template
            if not is_jinja(template) and not template.endswith(".jinja") and template.count("{prompt}") != 1:
                raise DataError(
                    f"--template {template!r:.80}: must hold {{prompt}} once, or be a chat template (Jinja, or a "
                    "FILE.jinja)"
                )
            if self.length < 2:
                raise DataError(f"--length {self.length}: must be at least 2 for an answer and its end")


def is_jinja(template: str) -> bool:
    """Is it a chat template, in the field's language of templates?"""
    return "{{" in template or "{%" in template


_MDLM = {"tokenizer": "gpt2", "length": 1024, "wrap": True, "group_documents": 1000, "valid_last": 100_000}
_FINEWEB = {"tokenizer": "gpt2", "length": 1024, "wrap": True, "valid_every": 1000}
PRESETS: dict[str, dict[str, Any]] = {
    "owt-mdlm": {"source": "Skylion007/openwebtext", **_MDLM},
    "fineweb": {"source": "HuggingFaceFW/fineweb", "subset": "sample-10BT", **_FINEWEB},
}
"""Named choices of `mcd prepare --preset`."""


def preset_of(recipe: Recipe, vocab_size: int) -> str | None:
    """The preset whose rows these are: all its choices hold, wherever the text and a tokenizer of GPT-2's size lie."""
    for name, choices in PRESETS.items():
        packed = {k: v for k, v in choices.items() if k not in ("source", "subset", "tokenizer")}
        if all(getattr(recipe, k) == v for k, v in packed.items()) and vocab_size == 50_257:
            return name
    return None
