"""A process that measures one side: it does what it is asked for, and sits idle in between.

Requests come over stdin and answers go over stdout, both pickled. `ours` runs with the allocator settings of the `mcd`
command, `peers` with those that PyTorch comes with, unless it is asked otherwise.
"""

import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import mcd
from mcd.errors import WorkFailed


def child_environment() -> dict[str, str]:
    """For processes that are to import this very package, with malloc as it comes."""
    chosen = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(chosen)}
    paths = [str(Path(mcd.__file__).parents[1]), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment | {"KINETO_LOG_LEVEL": "99"}  # torch.profiler says when it begins and ends


class Worker:
    """A process of `side` ("ours" or "peers"); `ask` calls a method of its `sides.Side` there and waits for the answer.

    keeps_blocks: whether malloc keeps freed blocks (`mcd.allocator`). To be used in a `with` block.
    """

    def __init__(self, side: str, keeps_blocks: bool | None = None):
        self.side = side
        keeps_blocks = side == "ours" if keeps_blocks is None else keeps_blocks
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, side, *(["--keep-blocks"] if keeps_blocks else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(),
        )

    def ask(self, request: str, /, **options: Any) -> Any:
        """The answer of that method of the side. Raises WorkFailed when it raised there, or the process is gone."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            pickle.dump((request, options), self._process.stdin)
            self._process.stdin.flush()
            done, answer = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            status = self._process.wait()
            mend = "; was there too little memory?" if status in (-9, 137) else ""
            raise WorkFailed(f"the process of {self.side} ended with status {status} in {request}{mend}") from None
        if not done:
            raise WorkFailed(f"{request} of {self.side} failed:\n{answer}")
        return answer

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


def serve(side: str, keeps_blocks: bool) -> None:
    """Answer requests until stdin is closed. What the work prints goes to stderr."""
    if keeps_blocks:
        from mcd.allocator import keep_freed_blocks

        keep_freed_blocks()
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from mcd.bench.sides import SIDES

    state = SIDES[side]()
    while True:
        try:
            method, options = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = (True, getattr(state, method)(**options))
        except Exception:
            answer = (False, traceback.format_exc())
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], "--keep-blocks" in sys.argv)
