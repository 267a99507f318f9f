"""`mcd sample`: draw text, or fill in a template."""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from mcd.cli.arguments import Flat, check_out, naming, parse, set_threads, show_dry_run
from mcd.cli.idle_options import refuse_idle
from mcd.cli.sampling_options import SamplingOptions, check_process, fitted, idle_in_drawing, weights_digest
from mcd.cli.shapes import shapes_of_model
from mcd.data.text import Borders
from mcd.errors import UsageError
from mcd.options import Count, Options, Seed, Steps

GROUP = 64
"""Rows drawn and written together, if a network call takes no more: what is lost when the command is killed."""
FIRST = b'{"row": 0'
"""How a file of samples begins."""


@dataclass(frozen=True)
class SampleArgs(Options):
    """Draw text from a model. The same command gives the same text: rows depend on (weights, seed, row, steps).

    A template is text with [MASK] or [MASK:n] (n masked tokens) where the model writes; after its end, the row is
    masked up to --length. A backslash before a mask makes it text: \\[MASK] gives [MASK]. A space before a mask is left
    to the model, since its words begin with their space; all other text is kept.

    If --out already holds rows of the same request, the command adds the missing ones.

    Examples:
      mcd sample demo --num 2 --steps 32
      mcd sample runs/student --num 64 --steps 8 --out runs/student/samples_student_s8.jsonl
      mcd sample demo --template "My fellow citizens, [MASK:12] peace" --length 48 --watch
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """MODEL: a folder, a hub id, or demo."""
    num: Count = 1
    """Number of rows."""
    steps: Steps = 32
    """Steps from noise to text; an autoregressive model takes one per token."""
    seed: Seed = 0
    """Seed of every random draw."""
    out: Path | None = None
    """FILE.jsonl, one JSON object per row (row, seed, steps, nfe, ids, text, protocol, and documents where a row has
    several); the text is printed if no file is given."""
    template: str | None = None
    """Text with [MASK] or [MASK:n]."""
    special_tokens: bool = False
    """Names of special tokens in the template's text become these tokens; otherwise they are text."""
    borders: Borders = "kept"
    """How the text shows the end of a document in a row. kept: by the name of the end-of-text token; dropped: not at
    all, so documents run together."""
    chat: str | None = None
    """A message to the model, instead of a template. It is formatted by the model's chat template, and the model
    writes the answer."""
    watch: bool = False
    """Show every intermediate state of row 0 (on stderr)."""
    sampling: Flat[SamplingOptions] = SamplingOptions()
    dry_run: bool = False
    """Print the resolved configuration and stop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out is not None and self.out.suffix != ".jsonl":
            raise ValueError(f"--out {self.out}: rows are written as JSON lines; name a file that ends in .jsonl")
        if self.special_tokens and self.template is None:
            raise ValueError("--special-tokens: applies to the text of a --template; leave it out")
        if self.chat is not None and self.template is not None:
            raise ValueError("--chat: replaces --template; give only one of them")
        if self.template == "":
            raise ValueError("--template: is empty; leave it out to draw rows without given text")


def main(argv: list[str]) -> int:
    args = parse(SampleArgs, argv, "sample")
    sampler = args.sampling.sampler_for(args.model, argv)
    refuse_idle(argv, idle_in_drawing(sampler))
    sampler = replace(sampler, steps=args.steps)
    if args.template is not None:
        from mcd.data.template import parse_template

        parse_template(args.template)
    if args.out:
        check_out(args.out)
    if args.dry_run:
        return show_dry_run(
            {"model": args.model, "num": args.num, "seed": args.seed, "borders": args.borders, **sampler.protocol()}
            | shapes_of_model(args.model)
        )
    _sample(args, argv, sampler)
    return 0


def _sample(args: SampleArgs, argv: list[str], sampler: Any) -> None:
    import torch

    from mcd.data.text import writer_of
    from mcd.data.tokenizer import tokenizer_of_model
    from mcd.eval.laboratory.shares import open_model, sample_in_shares
    from mcd.eval.protocol import protocol_of_dict
    from mcd.progress import progress_bar
    from mcd.training.ranks import broadcast, rank, world_size

    set_threads(args.sampling.threads)
    with naming("MODEL", args.model):
        denoiser = open_model(args.model, args.sampling.weights)
    first_process = rank() == 0  # only here: opening the model connects the processes
    check_process(sampler, denoiser)
    assert denoiser.folder is not None
    tokenizer = tokenizer_of_model(denoiser.folder, denoiser.config.tokens)
    length = args.sampling.length_for(denoiser)
    sampler = fitted(sampler, denoiser, length)
    frame = args.sampling.frame_for(denoiser, tokenizer)
    text, ids = _template(args, denoiser, tokenizer, length if frame is None else length - 2, first_process)
    template = None if ids is None else torch.tensor(ids)
    writer = writer_of(tokenizer, denoiser.folder, args.borders)
    if writer.end_id is None:
        refuse_idle(argv, {"--borders": f"{args.model} has no end of text"})
    stamp = {"borders": writer.borders, "length": length, "frame": True if frame else None}
    stamp |= {"weights": args.sampling.weights, "seed": args.seed, "threads": torch.get_num_threads()}
    stamp |= {"shapes": sampler.shapes_said(denoiser, length)}
    protocol = protocol_of_dict(sampler.protocol() | stamp)
    request = {
        "model": args.model,
        "weights_sha256": weights_digest(denoiser, args.sampling.weights),
        "seed": args.seed,
        "steps": sampler.steps,
        "template": text,
        **({"special_tokens": True} if args.special_tokens or args.chat is not None else {}),
    }
    given = {place: token for place, token in enumerate(ids or ()) if token != denoiser.blank_id}
    done = broadcast(_rows_done(args.out, request, protocol, given) if args.out and first_process else 0)
    started = time.monotonic()
    if args.watch and first_process:
        _print_states(sampler, denoiser, tokenizer, args.seed, length, template, frame)
    with progress_bar("sample") as update:
        group = max(GROUP, sampler.rows_for(denoiser, length) * world_size())
        for first in range(done, args.num, group):
            num = min(group, args.num - first)

            def tell(share: float, first: int = first, num: int = num) -> None:
                if share < 1.0:
                    update((first + share * num) / args.num, f"{first} rows")

            drawn, nfe = sample_in_shares(sampler, denoiser, num, length, args.seed, first, template, tell, frame)
            if not first_process:
                continue
            _write(
                args.out,
                [
                    {"row": first + i, **request, "nfe": calls, "ids": row}
                    | writer.fields(row)
                    | {"protocol": protocol.as_dict()}
                    for i, (row, calls) in enumerate(zip(drawn.tolist(), nfe.tolist(), strict=True))
                ],
            )
            if args.out:
                update((first + num) / args.num, f"{first + num} rows")
    if args.out and first_process:
        if done > args.num:
            print(f"{args.out}: holds {done} rows already, more than --num {args.num}; none was drawn", file=sys.stderr)
        else:
            print(f"{args.out}: {args.num} rows in {time.monotonic() - started:.1f} s", file=sys.stderr)


def _template(
    args: SampleArgs, denoiser: Any, tokenizer: Any, length: int, tell: bool
) -> tuple[str | None, list[int] | None]:
    """The text that is given and the ids of a row with it, from --template or --chat; None without either.

    Where `tell`, prints on stderr which texts of a template the tokenizer changes.
    """
    if args.chat is not None:
        from mcd.data.chat import chat_prompt

        return chat_prompt(denoiser.folder, tokenizer, args.chat, denoiser.blank_id, length)
    if args.template is None:
        return None, None
    from mcd.data.template import read_template
    from mcd.data.tokenizer import with_special_tokens

    reader = with_special_tokens(tokenizer) if args.special_tokens else tokenizer
    template = read_template(reader, args.template, denoiser.blank_id, length)
    for given, read in template.changed if tell else ():
        print(f"--template: the model's tokenizer reads {given!r} as {read!r}", file=sys.stderr)
    return args.template, template.ids


def _write(out: Path | None, rows: list[dict[str, Any]]) -> None:
    if out is None:
        for row in rows:
            print(f"[row {row['row']}, {row['steps']} steps, {row['nfe']} network calls]\n{row['text']}\n")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _rows_done(out: Path, request: dict[str, Any], protocol: Any, given: dict[int, int]) -> int:
    """How many complete rows of the same request the file already holds; an incomplete last line is dropped.

    given: the ids of the template by their places; older versions read templates in other ways.
    Raises UsageError when the file holds anything else, and changes nothing then.
    """
    from mcd.eval.protocol import protocol_of_dict

    if not out.exists():
        return 0
    data = out.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    rows: list[dict[str, Any]] = []
    try:
        rows = [json.loads(line) for line in whole.decode().split("\n")[:-1]]
        same = all(
            row["row"] == i
            and protocol_of_dict(row["protocol"]) == protocol
            and all(row[key] == request[key] for key in request)
            and all(row["ids"][place] == token for place, token in given.items())
            for i, row in enumerate(rows)
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        same = False
    if not whole:
        same = data.startswith(FIRST) or FIRST.startswith(data)
    if not same:
        raise UsageError(f"--out {out}: holds something else than rows of this request; name a new file")
    if whole != data:
        os.truncate(out, len(whole))
    return len(rows)


def states_as_text(
    sampler: Any, denoiser: Any, tokenizer: Any, z: Any, row: int, seed: int
) -> Iterator[tuple[Any, list]]:
    """Each `Step` of one row with its tokens' shares of the text (`token_texts`), None where still masked."""
    from mcd.data.token_texts import token_texts

    for step in sampler.trajectory(denoiser, z[None], [row], seed):
        yield step, token_texts(tokenizer, step.z[0].tolist(), denoiser.blank_id, skip_special_tokens=False)


def _print_states(
    sampler: Any, denoiser: Any, tokenizer: Any, seed: int, length: int, template: Any, frame: tuple[int, int] | None
) -> None:
    """Print every state of row 0 on stderr, one line per state, with newly revealed tokens in green."""
    from rich.console import Console
    from rich.text import Text

    from mcd.sampler.base import start_row

    z = start_row(denoiser, length, template, frame)
    console, before = Console(stderr=True), [None] * length
    for step, tokens in states_as_text(sampler, denoiser, tokenizer, z, 0, seed):
        line = Text(f"t = {step.t:.3f}  ", style="dim")
        for old, new in zip(before, tokens, strict=True):
            line.append("·" if new is None else new, style="bold green" if old is None and new is not None else "")
        console.print(line)
        before = tokens
