"""`mcd import`: a public checkpoint of MDLM, SDTT or Duo to a model folder."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import mcd
from mcd.cli.arguments import check_empty, check_out, naming, parse, show_dry_run
from mcd.errors import UsageError
from mcd.files import atomic_folder
from mcd.options import Count, Decay, Options

if TYPE_CHECKING:
    from mcd.checkpoints.import_ import Import

FILES = (".ckpt", ".safetensors", ".pt", ".pth", ".bin")
PAD = "[PAD]"
"""What the public code adds to GPT-2's tokenizer: Duo's last token (its vocabulary counts it), and MDLM's mask row."""


@dataclass(frozen=True)
class ImportArgs(Options):
    """Turn a public checkpoint of MDLM, SDTT or Duo into a model folder, which every other command takes.

    SOURCE is a hub id, a folder (config.json with model.safetensors, in one file or in shards), or a file: a
    Lightning .ckpt, which is read without running anything in it, or safetensors. Every key is accounted for.
    `origin.json` in the new folder records the source of every setting. docs/checkpoints.md lists the public
    checkpoints.

    Examples:
      mcd import kuleshov-group/mdlm-owt --out models/mdlm
      mcd import jdeschena/sdtt --revision baselines_kld_step_70000 --out models/sdtt-7
      mcd import s-sahoo/duo-distilled --out models/duo-distilled
      mcd import mdlm.ckpt --weights raw --out models/mdlm-raw
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """SOURCE: a hub id, a folder, or a file."""
    out: Path
    """Folder to write; it must be new or empty."""
    weights: Literal["ema", "raw", "both"] | None = None
    """Which weights of a Lightning checkpoint to import: the moving average (the default), the raw weights, or both."""
    revision: str | None = None
    """Branch, tag or commit of the hub; SDTT keeps one model per branch."""
    tokenizer: str | None = None
    """A tokenizer.json, a folder, a hub id, or `none`; by default the checkpoint's own tokenizer, or the one that it
    names (gpt2)."""
    layout: Literal["mdlm", "sdtt", "duo"] | None = None
    """Layout of the weights, for a file without a configuration."""
    heads: Count | None = None
    """Attention heads, if neither the file nor a published size gives them."""
    length: Count | None = None
    """Longest row, if neither the file nor a published size gives it."""
    time_conditioned: bool = False
    """Whether the network was trained with the time as an input, if its configuration does not say it. By default
    this is inferred from the weights; if they do not show it, the answer is no."""
    eps: Decay | None = None
    """eps of the log-linear schedule alpha(t) = 1 - (1 - eps) t, if the configuration does not give it; the default
    0.001 is that of the public code."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: list[str]) -> int:
    args = parse(ImportArgs, argv, "import")
    path = Path(args.source)
    if args.revision is not None and path.exists():
        raise UsageError(f"--revision {args.revision}: {args.source} is here; only the hub has revisions")
    if path.suffix in FILES and not path.exists():  # and never a hub id
        raise UsageError(f"SOURCE {args.source}: no such file")
    check_out(args.out, folder=True)
    check_empty(args.out, f"--out {args.out}")
    if args.dry_run:
        return show_dry_run({**asdict(args), "time_conditioned": _conditioning(args, argv), "out": str(args.out)})
    with naming("SOURCE", args.source):
        return _import(args, _conditioning(args, argv))


def _conditioning(args: ImportArgs, argv: list[str]) -> bool | None:
    """The time-conditioning option: None if neither form of it was given."""
    return args.time_conditioned if args.time_conditioned or "--no-time-conditioned" in argv else None


def _import(args: ImportArgs, time_conditioned: bool | None) -> int:
    from mcd.checkpoints.folder import COMPANIONS, OF_TOKENIZER, copy_companions
    from mcd.checkpoints.import_ import origin_of, understand, write_import
    from mcd.checkpoints.locate import locate
    from mcd.checkpoints.source import open_source
    from mcd.files import file_sha256

    path = Path(args.source)
    here = path.is_file() or any(path.glob("*.ckpt"))  # a folder with one needs no config.json
    folder = path if here else locate(args.source, args.revision)
    said = (args.layout, args.heads, args.length, time_conditioned, args.eps)
    found = understand(open_source(folder), args.weights, *said)
    tokenizer_json, tokenizer_from = tokenizer_for(found, args.tokenizer)
    if not found.facts.configured and args.tokenizer is None and tokenizer_from == found.facts.tokenizer:
        found = replace(found, assumed=[*found.assumed, f"tokenizer {tokenizer_from}: of the published checkpoints"])
    origin = {
        "source": args.source if not path.exists() else path.name,
        "revision": args.revision,
        "commit": folder.name if not path.exists() else None,
        **origin_of(found),
        "tokenizer": tokenizer_from,
        "files": {file.name: file_sha256(file) for file in found.source.files},
        "imported_by": f"mcd {mcd.__version__}",
    }
    with atomic_folder(args.out) as partial:
        write_import(found, partial, tokenizer_json, origin)
        copy_companions(folder, partial, COMPANIONS)
        if args.tokenizer is not None:
            copy_companions(Path(args.tokenizer), partial, OF_TOKENIZER)
    _show(found, tokenizer_from, args.out)
    return 0


def tokenizer_for(found: "Import", wanted: str | None) -> tuple[str | None, str | None]:
    """The tokenizer.json of an import, fitted to its vocabulary, and where it is from; None and None for "none".

    Raises UsageError when there is none that fits, with how to fix it.
    """
    from tokenizers import Tokenizer

    from mcd.data.tokenizer import load_tokenizer
    from mcd.errors import DataError

    V = found.config.vocab_size
    if wanted == "none":
        return None, None
    if wanted is not None:
        path = Path(wanted)
        return fitted(load_tokenizer(wanted), V, f"--tokenizer {wanted}"), path.name if path.exists() else wanted
    fix = "give --tokenizer with a tokenizer.json, a folder or a hub id, or --tokenizer none to do without"
    beside = found.source.files[0].parent / "tokenizer.json"
    inside = found.source.tokenizer
    if inside is not None:
        try:
            return fitted(Tokenizer.from_str(inside), V, "the tokenizer in the checkpoint"), "the checkpoint"
        except Exception as error:  # `tokenizers` raises bare Exception for every fault
            raise UsageError(f"{found.source.name}: {error}; {fix}") from None
    if found.source.container == "hub" and beside.is_file():
        return fitted(load_tokenizer(beside), V, f"{beside}"), "tokenizer.json next to it"
    name = found.facts.tokenizer
    if name is None:
        raise UsageError(f"{found.source.name}: does not say which tokenizer it has; {fix}")
    try:
        return fitted(load_tokenizer(name), V, f"the tokenizer {name}"), name
    except DataError as error:
        raise UsageError(
            f"{found.source.name}: its tokenizer, {name}, is not in it and cannot be downloaded ({error}); {fix}"
        ) from None


def fitted(tokenizer: Any, V: int, what: str) -> str:
    """A tokenizer's JSON with exactly V tokens: added ones beyond them left out, or Duo's [PAD] added.

    Raises UsageError when it is of another vocabulary.
    """
    from tokenizers import Tokenizer

    size = tokenizer.get_vocab_size()
    if size > V:
        content = json.loads(tokenizer.to_str())
        content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < V]
        tokenizer = Tokenizer.from_str(json.dumps(content))
    elif size == V - 1:
        tokenizer.add_special_tokens([PAD])
    if tokenizer.get_vocab_size() != V:
        raise UsageError(f"{what}: has {size} tokens, the model {V}; it is not the one this model was trained with")
    return tokenizer.to_str()


def _show(found: "Import", tokenizer: str | None, out: Path) -> None:
    from mcd.model.dit import DiTConfig

    backbone = found.config.backbone
    assert isinstance(backbone, DiTConfig)
    process = "uniform diffusion" if found.config.mask_id is None else f"mask {found.config.mask_id}"
    print(
        f"{found.layout}: {backbone.layers} layers of {backbone.hidden}, {backbone.heads} heads, "
        f"{found.config.vocab_size:,} tokens, {process}, rows of {backbone.length}"
    )
    print(f"weights: {found.chosen} (of {', '.join(found.available)}), in float32; tokenizer: {tokenizer or 'none'}")
    for line in found.assumed:
        print(f"assumed: {line}")
    if found.ignored:
        print(f"left out: {', '.join(_grouped(found.ignored))}")
    print(f"written to {out}")
    if found.warning is not None:
        print(f"mcd: warning: {found.warning}", file=sys.stderr)


def _grouped(names: Sequence[str]) -> list[str]:
    """Names of tensors, those of a whole network next to the student as one: `teacher.* (26 tensors)`."""
    from mcd.checkpoints.public_layout import HELPERS

    helper_of = {name: next((part for part in name.split(".") if part in HELPERS), None) for name in names}
    counts = Counter(helper for helper in helper_of.values() if helper is not None)
    alone = [name for name in names if helper_of[name] is None]
    return [f"{helper}.* ({n} tensors)" for helper, n in counts.items()] + alone
