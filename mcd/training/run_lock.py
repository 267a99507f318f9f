"""One run at a time in a folder: a lock that the system takes back when its process ends, however it ends."""

import errno
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mcd.errors import RunConflict
from mcd.files import JSONError, read_json
from mcd.progress import notice

LOCK, HOLDER = "lock", "holder.json"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RunLock:
    """The lock of the run folder `path`, held from here to `close`, or until the process is gone (kill -9 included).

    It is the system's lock on the file `lock`; holder.json says who has it (pid, host, since). Both files stay, but by
    themselves they lock nothing. Where the file system has no locks (some NFS and Lustre mounts), a run that is seen to
    be alive on this host is still refused, one on another host is not; stderr says so. A child that this process forks
    without exec shares the lock until it has ended too. Raises RunConflict, and changes nothing, when another holds it;
    OSError where the file cannot be made.
    """

    def __init__(self, path: Path):
        self._lock = FileLock(path / LOCK)
        holder = _holder(path)
        try:
            self._lock.acquire(blocking=False)
            free = True
        except Timeout:
            free = False
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            free = not _alive_here(holder)
            if free:
                notice(
                    f"mcd: {path}: its file system has no locks ({getattr(error, 'strerror', error)}); "
                    "nothing stops a run on another machine from writing into the same folder"
                )
        if not free:
            pid, host, since = (str(holder.get(key, "unknown"))[:80] for key in ("pid", "host", "since"))
            raise RunConflict(
                f"--out {path}: another run is at work there (process {pid} on {host}, since {since}); "
                "wait until it has ended, stop it, or name a new folder"
            )
        since = datetime.now(UTC).isoformat(timespec="seconds")
        note = {"pid": os.getpid(), "host": platform.node(), "since": since}
        (path / HOLDER).write_text(json.dumps(note) + "\n", encoding="utf-8")

    def close(self) -> None:
        """Let others run in the folder."""
        self._lock.release()


def _holder(path: Path) -> dict[str, Any]:
    """What the folder says of who took the lock last; empty when it says nothing."""
    try:
        value = read_json(path / HOLDER)
    except (JSONError, OSError):
        return {}
    return value if isinstance(value, dict) else {}


def _alive_here(holder: dict[str, Any]) -> bool:
    """Whether the holder is another process of this host that is alive."""
    pid = holder.get("pid")
    if holder.get("host") != platform.node() or type(pid) is not int or not 0 < pid < 2**31 or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except OSError as error:  # it is alive if it is another user's
        return not isinstance(error, ProcessLookupError)
    return True
