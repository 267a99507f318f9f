"""`mcd sample`: draw text, or fill in a template."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from mcd.cli.arguments import Flat, check_out, naming, parse, set_threads, show_dry_run
from mcd.cli.idle_options import refuse_idle
from mcd.cli.sampling_options import SamplingOptions, weights_digest
from mcd.cli.shapes import shapes_of_model
from mcd.data.text import Borders
from mcd.errors import UsageError
from mcd.options import Count, Options, Seed, Steps
from mcd.sampler.choice import idle_in_drawing

GROUP = 64
"""Rows drawn and written together, if a network call takes no more: what is lost when the command is killed."""
FIRST = b'{"row": 0'
"""How a file of samples begins."""


@dataclass(frozen=True)
class SampleArgs(Options):
    """Draw text from a model. The same command gives the same text: rows depend on (weights, seed, row, steps).

    A template is text with [MASK] or [MASK:n] (n masked tokens) where the model writes. The row ends where the template
    ends; with --length, it is masked from there on up to that length. A backslash before a mask makes it text:
    \\[MASK] gives [MASK]. A space before a mask is left to the model, since its words begin with their space; all other
    text is kept. A row longer than the model's is drawn in windows (docs/infilling.md).

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
    """Show every intermediate state of row 0 (on stderr): a terminal redraws it in place, elsewhere each is a line."""
    compile: bool = False
    """Compile the blocks of the network with torch.compile, once for the shape of a network call; this takes a minute,
    and changes the last bits (needs a C++ compiler on CPUs)."""
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
    if sampler.process == "autoregressive":
        refuse_idle(argv, {"--compile": "a call of an autoregressive model computes one position, and is not compiled"})
    sampler = replace(sampler, steps=args.steps)
    if args.template is not None:
        from mcd.data.template import parse_template

        parse_template(args.template)
    if args.out:
        check_out(args.out)
    if args.dry_run:
        return show_dry_run(
            {"model": args.model, "num": args.num, "seed": args.seed, "borders": args.borders, **sampler.protocol()}
            | ({"dtype": args.sampling.dtype} if args.sampling.dtype != "float32" else {})
            | ({"compiled": True} if args.compile else {})
            | shapes_of_model(args.model)
        )
    _sample(args, argv, sampler)
    return 0


def _sample(args: SampleArgs, argv: list[str], sampler: Any) -> None:
    import torch

    from mcd.api.model import Model
    from mcd.cli.data_option import print_notes
    from mcd.data.text import writer_of
    from mcd.eval.laboratory.shares import open_model, sample_in_shares
    from mcd.eval.protocol import protocol_of_dict
    from mcd.machine import check_compiler
    from mcd.progress import progress_bar
    from mcd.training.ranks import broadcast, rank, world_size

    set_threads(args.sampling.threads)
    with naming("MODEL", args.model):
        model = Model(open_model(args.model, args.sampling.weights, args.sampling.dtype))
    denoiser, first_process = model.denoiser, rank() == 0  # only here: opening the model connects the processes
    if args.compile:
        if denoiser.device.type == "cpu":
            check_compiler()
        denoiser.backbone.compile_blocks()
    request = model.request(
        args.template,
        chat=args.chat,
        length=args.sampling.length,
        sampler=sampler,
        frame=args.sampling.frame,
        special_tokens=args.special_tokens,
    )
    print_notes(list(request.notes))
    sampler, writer = request.sampler, writer_of(model.tokenizer, denoiser.folder, args.borders)
    if writer.end_id is None:
        refuse_idle(argv, {"--borders": f"{args.model} has no end of text"})
    inside = min(request.length, model.length)  # tokens of a row of a network call
    stamp = {"borders": writer.borders, "length": request.length, "frame": True if args.sampling.frame else None}
    stamp |= {"weights": args.sampling.weights, "seed": args.seed, "threads": torch.get_num_threads()}
    stamp |= {
        "compiled": True if args.compile else None,
        "dtype": denoiser.dtype_said,
        "shapes": sampler.shapes_said(denoiser, inside),
    }
    protocol = protocol_of_dict(sampler.protocol() | stamp)
    record = {
        "model": args.model,
        "weights_sha256": weights_digest(denoiser, args.sampling.weights),
        "seed": args.seed,
        "steps": sampler.steps,
        "template": request.text,
        **({"special_tokens": True} if args.special_tokens or args.chat is not None else {}),
    }
    given = {place: token for place, token in enumerate(request.ids.tolist()) if token != denoiser.blank_id}
    done = broadcast(_rows_done(args.out, record, protocol, given) if args.out and first_process else 0)
    started = time.monotonic()

    def write(first: int, drawn: list[list[int]], nfe: list[int]) -> None:
        pairs = zip(nfe, drawn, strict=True)
        fields = [record | {"nfe": calls, "ids": row} | writer.fields(row) for calls, row in pairs]
        _write(args.out, [{"row": first + i, **row, "protocol": protocol.as_dict()} for i, row in enumerate(fields)])

    if args.watch and first_process:
        last = _show_states(model.states(request, seed=args.seed))
        if done == 0 and world_size() == 1:  # nobody waits for this process to draw it
            write(0, last.ids.tolist(), last.nfe)
            done = 1
    if done < args.num:
        with progress_bar("sample") as update:
            group = max(GROUP, sampler.rows_for(denoiser, inside) * world_size())
            for first in range(done, args.num, group):
                num = min(group, args.num - first)

                def tell(share: float, first: int = first, num: int = num) -> None:
                    if share < 1.0:
                        update((first + share * num) / args.num, f"{first} rows")

                drawn, nfe = sample_in_shares(
                    sampler, denoiser, num, request.length, args.seed, first, request.ids, tell, request.frame
                )
                if not first_process:
                    continue
                write(first, drawn.tolist(), nfe.tolist())
                if args.out or sys.stderr.isatty():  # a bar ends full; a line of it would stand between the texts
                    update((first + num) / args.num, f"{first + num} rows")
    if args.out and first_process:
        if done > args.num:
            print(f"{args.out}: holds {done} rows already, more than --num {args.num}; none was drawn", file=sys.stderr)
        else:
            print(f"{args.out}: {args.num} rows in {time.monotonic() - started:.1f} s", file=sys.stderr)


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


def _show_states(states: Iterable[Any]) -> Any:
    """Show every state of a row on stderr, with the tokens in green that are new: on a terminal in place of the one
    before, elsewhere a line for each. Returns the last one."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console, before, state = Console(stderr=True), None, None
    redraws = console.is_terminal and not console.is_dumb_terminal
    how: dict[str, Any] = {"auto_refresh": False, "vertical_overflow": "crop", "redirect_stdout": False}
    live = Live(console=console, **how) if redraws else None
    with live or contextlib.nullcontext():
        for state in states:
            line, (tokens,) = Text().append(f"t = {state.t:.3f}  ", style="dim"), state.tokens
            for old, new in zip(before or [None] * len(tokens), tokens, strict=True):
                line.append("·" if new is None else new, style="bold green" if old is None and new is not None else "")
            if live:
                live.update(line, refresh=True)
            else:
                console.print(line, soft_wrap=True)
            before = tokens
    return state
