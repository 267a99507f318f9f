"""How text becomes tokens: every choice that the bytes of prepared data depend on, each an option of `mcd prepare`."""

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from mcd.errors import UsageError
from mcd.options import Natural, Options

Packing = Literal["stream", "groups", "rows"]


@dataclass(frozen=True)
class Recipe(Options):
    """How text becomes tokens. A synthetic language has its own tokens: of these choices it takes only `length`.

    Raises UsageError for choices that make no sense, alone or together.
    """

    data: str
    """Text: a file, a folder, `sotu`, a hub dataset, or a language (markov, hmm, grammar, english)."""
    text_field: str = "text"
    """Field of .jsonl or .json, or column of .parquet or .arrow, that holds the text."""
    tokenizer: str | None = None
    """A tokenizer.json, a folder, a hub id, or demo (the bundled teacher's); by default a byte-level BPE is trained on
    the text."""
    vocab_size: int = 2048
    """Tokens of the BPE that is trained on the text."""
    length: Annotated[int, Ge(1), Le(1 << 24)] = 128
    """Tokens per row (training may override it)."""
    wrap: bool = False
    """Begin and end every row with the end-of-text token, as MDLM does."""
    valid_every: Annotated[int, Ge(2)] = 16
    """Hold out one document in this many, the first one included."""
    valid_last: Natural = 0
    """Hold out this many last documents instead."""
    group_documents: Natural = 0
    """In each group of this many documents, leave out the tokens that do not fill a row, as MDLM does (1000; empty
    documents count); 0: one stream."""
    subset: str | None = None
    """Subset (configuration) of a hub dataset."""
    split: str = "train"
    """Split of a hub dataset, or of a folder whose files name their splits."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset; the commit is recorded."""
    prompt_field: str | None = None
    """Instruction data: the field of the prompt. Training uses only the answers; each record is a row."""
    answer_field: str = "answer"
    """Instruction data: the field of the answer."""
    messages_field: str | None = None
    """Instruction data: a field with a list of messages, {"role", "content"}; training uses the last answer."""
    template: str | None = None
    """Instruction data: the text of a prompt with {prompt} in it, or a chat template (Jinja, or a FILE.jinja); by
    default the tokenizer's own chat template, else the prompt alone. Names of special tokens in it become these tokens;
    what the records hold stays text."""
    too_long: Literal["drop", "cut"] = "drop"
    """Instruction data longer than a row: leave it out, or cut the beginning off the prompt."""
    diffuse_padding: bool = True
    """Instruction data: learn the end of text that fills a row behind an answer, as LLaDA does (arXiv 2502.09992,
    Section 2.3), so that a model finds where its answer ends. If not, training shows it, and a model must be given the
    length of its answers."""
    dedup: bool = False
    """Keep only the first of documents with the same text, so that none is both in train and held out."""
    eos_token: str | None = None
    """The name of the token that ends a text; by default what the files next to the tokenizer say."""
    special_tokens: bool = False
    """Let names of special tokens in a text, such as <|endoftext|>, become these tokens; by default they are text."""
    frame: bool = False
    """Begin and end every row with the tokens that the tokenizer puts around a text ([CLS], [SEP]), for networks
    that were trained with them. They are always visible and not trained on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = self.packing == "rows"
        least = 3 if self.wrap or self.frame else 2 if rows else 1
        if self.length < least:
            what = "an answer and its end" if rows else "text between two tokens"
            raise UsageError(f"--length {self.length}: must be at least {least}, for {what}")
        if self.prompt_field is not None and self.messages_field is not None:
            raise UsageError("--messages-field: replaces --prompt-field; give only one of them")
        if rows and (self.wrap or self.group_documents):
            raise UsageError("--wrap: prompts and answers are rows of their own; leave it out")
        if self.group_documents and not self.wrap:
            raise UsageError(f"--group-documents {self.group_documents}: needs wrapped rows; add --wrap")
        if self.frame and (self.wrap or rows):
            other = "--wrap" if self.wrap else "--prompt-field" if self.prompt_field else "--messages-field"
            raise UsageError(f"--frame: puts its tokens around rows of text; not together with {other}")
        if self.frame and self.tokenizer is None:
            raise UsageError("--frame: only a given tokenizer has tokens for it; give --tokenizer, or leave it out")
        template = self.template if rows and self.template is not None else "{prompt}"
        if not is_jinja(template) and not template.endswith(".jinja") and template.count("{prompt}") != 1:
            raise UsageError(
                f"--template {template!r:.80}: must hold {{prompt}} once, or be a chat template (Jinja, or "
                "a FILE.jinja)"
            )

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
        """Texts per record: a document, or a prompt and its answer."""
        return 2 if self.packing == "rows" else 1

    @property
    def stride(self) -> int:
        """Tokens of the text that a row takes."""
        return self.length - 2 if self.wrap or self.frame else self.length

    def as_dict(self) -> dict[str, Any]:
        """All choices as a manifest records them, where `data` is called "source"."""
        choices = asdict(self)
        return {"source": choices.pop("data"), **choices}

    @classmethod
    def from_dict(cls, choices: dict[str, Any]) -> "Recipe":
        """The reverse of `as_dict`."""
        return cls(choices["source"], **{name: value for name, value in choices.items() if name != "source"})

    def identity(self) -> dict[str, Any]:
        """The choices by which prepared data is known: `as_dict` without later additions at their defaults.

        How padding is learnt is always part of instruction data's, since its default was once another.
        """
        first = ["source", "text_field", "tokenizer", "vocab_size", "length", "wrap", "valid_every"]
        first += ["diffuse_padding"] if self.packing == "rows" else []
        default = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in self.as_dict().items() if name in first or value != default[name]}


def is_jinja(template: str) -> bool:
    """Is it a chat template in Jinja?"""
    return "{{" in template or "{%" in template


_MDLM = {"tokenizer": "gpt2", "length": 1024, "wrap": True, "group_documents": 1000, "valid_last": 100_000}
_FINEWEB = {"tokenizer": "gpt2", "length": 1024, "wrap": True, "valid_every": 1000}
PRESETS: dict[str, dict[str, Any]] = {
    "owt-mdlm": {"data": "Skylion007/openwebtext", **_MDLM},
    "fineweb": {"data": "HuggingFaceFW/fineweb", "subset": "sample-10BT", **_FINEWEB},
}
"""Named choices of `mcd prepare --preset`. The grouping is that of MDLM's public code (arXiv 2406.07524)."""


def preset_of(recipe: Recipe, vocab_size: int) -> str | None:
    """The preset whose rows these are: all its choices hold, wherever the text and a tokenizer of GPT-2's size lie."""
    for name, choices in PRESETS.items():
        packed = {k: v for k, v in choices.items() if k not in ("data", "subset", "tokenizer")}
        if all(getattr(recipe, k) == v for k, v in packed.items()) and vocab_size == 50_257:
            return name
    return None
