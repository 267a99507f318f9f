"""Two processes that measure in turn: ours and the peers'. Each is idle while the other works.

`ours` runs with the allocator settings of the `mcd` command, `peers` with those that PyTorch comes with, unless the
benchmark asks for others.
"""

import contextlib
import multiprocessing
import os
import pkgutil
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

from mcd.errors import WorkFailed

SIDES = {"ours": "mcd.bench.sides:Ours", "peers": "mcd.bench.sides:Peers"}
"""The class that does the work of a side, "module:class". Only the worker imports it, after malloc is set."""


class Worker:
    """A process that holds one object, of the class of `side`; `ask` calls its methods there. Use it in a `with` block.

    keeps_blocks: whether malloc keeps freed blocks (`mcd.allocator`). kind: another class than that of `SIDES`.
    """

    def __init__(self, side: str, keeps_blocks: bool, kind: str | None = None):
        self.side = side
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, kind or SIDES[side], keeps_blocks), daemon=True)
        with _default_malloc():
            self._process.start()
        theirs.close()

    def ask(self, request: str, /, **options: Any) -> Any:
        """The answer of that method of the side. Raises WorkFailed when it raised there, or the process is gone."""
        try:
            self._connection.send((request, options))
            done, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            status = self._process.exitcode
            hint = "; was there too little memory?" if status in (-9, 137) else ""
            raise WorkFailed(f"the process of {self.side} ended with status {status} in {request}{hint}") from None
        if not done:
            raise WorkFailed(f"{request} of {self.side} failed:\n{answer}")
        return answer

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: Any) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


class Pair:
    """Our worker and, unless there is nothing to compare, the peers' worker; both are called in turn.

    peers: None for none; else whether the peers' malloc keeps freed blocks, as ours does.
    """

    def __init__(self, peers: bool | None = False):
        with ExitStack() as stack:
            self.workers = {"ours": stack.enter_context(Worker("ours", True))}
            if peers is not None:
                self.workers["peers"] = stack.enter_context(Worker("peers", peers))
            self._stack = stack.pop_all()

    def ask(self, request: str, /, **options: Any) -> dict[str, Any]:
        """The answers of "ours" and "peers", which work one after the other."""
        return {side: worker.ask(request, **options) for side, worker in self.workers.items()}

    def repeat(self, repeats: int, request: str, /, **options: Any) -> dict[str, list[Any]]:
        """`repeats` answers of each side, the sides taking turns; the request is given `seed` from 1 on."""
        answers = [self.ask(request, seed=seed, **options) for seed in range(1, repeats + 1)]
        return {side: [answer[side] for answer in answers] for side in self.workers}

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()


@contextlib.contextmanager
def _default_malloc() -> Iterator[None]:
    """Hide the user's choice of malloc from processes that are started meanwhile."""
    chosen = [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))]
    hidden = {name: os.environ.pop(name) for name in chosen}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _serve(connection: Connection, kind: str, keeps_blocks: bool) -> None:
    """Answer requests until the other end is closed. What the work prints goes to stderr."""
    os.dup2(2, 1)
    os.environ["KINETO_LOG_LEVEL"] = "99"  # torch.profiler otherwise prints when it begins and ends
    if keeps_blocks:
        from mcd.allocator import keep_freed_blocks

        keep_freed_blocks()
    side = pkgutil.resolve_name(kind)()
    while True:
        try:
            method, options = connection.recv()
        except EOFError:
            return
        try:
            answer = (True, getattr(side, method)(**options))
        except Exception:
            answer = (False, traceback.format_exc())
        connection.send(answer)
