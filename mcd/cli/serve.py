"""`mcd serve`: a model over HTTP."""

import contextlib
import logging
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from annotated_types import Ge, Le

from mcd.cli.arguments import Flat, Threads, naming, parse, set_threads, show_dry_run
from mcd.errors import UsageError
from mcd.options import Options
from mcd.serve.limits import Limits

KEY = "MCD_API_KEY"


@dataclass(frozen=True)
class ServeArgs(Options):
    """Serve a model over HTTP, with the completions API of OpenAI and fields for infilling (docs/serving.md).

    The API key, if one is wanted, is taken from the environment variable MCD_API_KEY. The server listens on this
    machine only, unless --host says otherwise. Ctrl-C or SIGTERM: it accepts nothing more, finishes what it accepted,
    and ends; a second Ctrl-C ends it at once.

    Examples:
      mcd serve demo
      mcd serve runs/student --name student --port 8080 --queue 64 --timeout 60
      MCD_API_KEY=secret mcd serve runs/student --host 0.0.0.0
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """MODEL: a folder, a hub id, or demo."""
    name: str | None = None
    """The name of the model in requests; by default the last part of MODEL."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Ge(0), Le(65535)] = 8000
    """Port to listen on; 0 takes a free one, which is printed."""
    limits: Flat[Limits] = Limits()
    cors: tuple[str, ...] = ()
    """Origins whose pages may call the server, such as https://example.org; none by default."""
    weights: Literal["ema", "raw"] = "ema"
    """Which weights of a run folder to use."""
    threads: Threads | None = None
    """CPU threads; all cores by default."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: list[str]) -> int:
    args = parse(ServeArgs, argv, "serve")
    name = args.name or Path(args.model).name
    api_key = os.environ.get(KEY) or None
    if args.dry_run:
        shown = {"model": args.model, "name": name, "host": args.host, "port": args.port, "cors": args.cors}
        return show_dry_run(shown | vars(args.limits) | {"api_key": api_key is not None})

    import uvicorn

    from mcd.api.model import load
    from mcd.serve.http import Service, app_of

    set_threads(args.threads)
    with naming("MODEL", args.model):
        model = load(args.model, args.weights)
    listening = socket_at(args.host, args.port)
    service = Service(model, name, args.limits)
    key = f"with the API key of {KEY}" if api_key else f"without an API key ({KEY} is not set)"
    host, port = listening.getsockname()[:2]
    print(f"mcd: serves {name} at http://{host}:{port}/v1, {key}; stop it with Ctrl-C", file=sys.stderr, flush=True)
    config = uvicorn.Config(app_of(service, api_key, args.cors), log_level=logging.WARNING, access_log=False)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again when all is done
        uvicorn.Server(config).run([listening])
    service.scheduler.close()
    return 0


def socket_at(host: str, port: int) -> socket.socket:
    """A socket that listens on an address. Raises UsageError that names the options."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host} --port {port}: cannot listen there ({error}); name another") from None
    # Connections inherit it. asyncio sets it for sockets that it makes itself; without it the body of an answer waits
    # for the client's acknowledgement of its head, 40 ms on a connection that is kept.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
