"""How errors are reported: one line on stderr, and exit status 2 for errors of the request, 1 for all others."""

import contextlib
import difflib
import errno
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mcd.errors import RequestError, WorkFailed


def fail(message: str, status: int) -> int:
    """Print an error to stderr and return `status`."""
    print(f"mcd: {message}", file=sys.stderr)
    return status


def nearest(word: str, known: Iterable[str]) -> str:
    """ " (did you mean X?)" for the known word most like `word`, or nothing. One with the same letters goes first."""
    close = difflib.get_close_matches(word, list(known), n=3)
    close.sort(key=lambda other: sorted(other) != sorted(word))
    return f" (did you mean {close[0]!r}?)" if close else ""


@dataclass
class Outcome:
    """The exit status of a command."""

    status: int = 0


@contextlib.contextmanager
def explained() -> Iterator[Outcome]:
    """Turn known errors into one line on stderr and an exit status; anything else is a bug and keeps its traceback."""
    outcome = Outcome()
    try:
        yield outcome
    except RequestError as error:
        outcome.status = fail(str(error), 2)
    except ImportError as error:
        if (fix := missing_extra(error)) is None:
            raise
        outcome.status = fail(fix, 2)
    except KeyboardInterrupt:
        outcome.status = fail("stopped", 1)
    except (FloatingPointError, WorkFailed) as error:
        outcome.status = fail(str(error), 1)
    except (MemoryError, RuntimeError) as error:
        if not _lacks_memory(error):
            raise
        lines = str(error).splitlines() or ["the system gave none"]
        fix = (
            "use fewer rows at a time (--batch-size, --accumulate, --checkpoint-activations; --rows-per-call of "
            "samplers); see `mcd plan`"
        )
        outcome.status = fail(f"not enough memory: {lines[0][:200]}; {fix}", 2)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            outcome.status = fail(
                f"no space left on the device ({error.filename or 'while writing'}); "
                "free some, then run the same command again",
                1,
            )
        elif error.errno in (errno.EACCES, errno.EROFS):
            outcome.status = fail(f"{error.filename}: {(error.strerror or '').lower()}; name another", 1)
        elif error.errno in _PATHS:
            outcome.status = fail(f"{error.filename or 'a path of the request'}: {error.strerror}", 1)
        else:
            raise


def missing_extra(error: ImportError) -> str | None:
    """What to install for a package that an extra would bring, in words; None where none of them does."""
    extra = _EXTRAS.get((error.name or "").split(".")[0])
    return extra and f"{error.name} is not installed; pip install 'mcd-lm[{extra}]'"


def _lacks_memory(error: Exception) -> bool:
    """Whether an error means too little memory: Python's own, PyTorch's on CPUs (which has no own type), or an
    accelerator's."""
    said = str(error)
    names = (type(error).__name__, type(error).__mro__[1].__name__)
    return isinstance(error, MemoryError) or "can't allocate memory" in said or "OutOfMemoryError" in names


_PATHS = (
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EPERM,
)
_EXTRAS = {
    "lightning_fabric": "train",
    "fastapi": "serve",
    "gradio": "play",
    "greenlet": "serve",
    "prometheus_client": "serve",
    "uvicorn": "serve",
    "peft": "lora",
    "gguf": "score",
    "accelerate": "score",
    "matplotlib": "plot",
    "scipy": "plot",
    "datasets": "hub",
    "huggingface_hub": "hub",
    "pyarrow": "hub",
    "mauve": "mauve",
    "lm_eval": "lm-eval",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
}
