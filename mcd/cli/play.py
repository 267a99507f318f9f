"""`mcd play`: models to try in the browser."""

import contextlib
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from annotated_types import Ge, Le

from mcd.cli.arguments import Threads, naming, parse, set_threads, show_dry_run
from mcd.cli.serve import socket_at
from mcd.errors import UsageError
from mcd.options import Options, check_distinct


@dataclass(frozen=True)
class PlayArgs(Options):
    """Try models in the browser: side by side, filling in words, and the Gaussian duality (docs/playground.md).

    The page is on this machine only, unless --host says otherwise, and loads nothing from other hosts. It has no
    password: with --host, whoever reaches the port can use it. Ctrl-C ends it.

    Examples:
      mcd play demo
      mcd play demo runs/student --port 8080
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """MODELs: folders, hub ids, or demo. The first ones, up to three, are side by side at the start."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Ge(0), Le(65535)] = 7860
    """Port to listen on; 0 takes a free one, which is printed."""
    weights: Literal["ema", "raw"] = "ema"
    """Which weights of run folders to use."""
    threads: Threads | None = None
    """CPU threads; all cores by default."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: list[str]) -> int:
    args = parse(PlayArgs, argv, "play")
    if not args.models:
        raise UsageError("MODEL: name at least one model")
    check_distinct("MODEL", args.models)
    names = _names(args.models)
    if args.dry_run:
        return show_dry_run(
            {"models": dict(zip(names, args.models, strict=True)), "host": args.host, "port": args.port}
        )

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before its import: it tells nobody that it is used
    from mcd.api.model import load
    from mcd.play.app import app_of

    import uvicorn  # isort: skip  # after gradio, which brings it: whoever lacks both is told of the extra `play`

    set_threads(args.threads)
    models = {}
    for name, model in zip(names, args.models, strict=True):
        with naming("MODEL", model):
            models[name] = load(model, args.weights)
    listening = socket_at(args.host, args.port)
    host, port = listening.getsockname()[:2]
    config = uvicorn.Config(app_of(models), log_level=logging.WARNING, access_log=False, timeout_graceful_shutdown=2)
    print(f"mcd: the playground is at http://{host}:{port}/; stop it with Ctrl-C", file=sys.stderr, flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again when all is done
        uvicorn.Server(config).run([listening])
    return 0


def _names(models: tuple[str, ...]) -> list[str]:
    """A name for each model: the last part of its path, or all of it where two would have the same."""
    short = [Path(model).name or model for model in models]
    return [name if short.count(name) == 1 else model for name, model in zip(short, models, strict=True)]
