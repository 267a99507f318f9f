"""One run at a time in a folder: a lock that the system takes back when its process ends, however it ends.

It is not the library `filelock`: a lock of the system does not say there who holds it, and versions that many machines
have empty the file before they hold the lock, and so lose our note of the holder. What it would replace is one call.
"""

import contextlib
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mcd.errors import RunConflict
from mcd.files import JSONError, lock_file, parse_json

LOCK = "lock"


class RunLock:
    """The lock of the run folder `path`, held from here to `close`, or until the process is gone (kill -9 included).

    It is the system's lock on the open file `lock`, which also says who holds it (pid, host, since). The file stays,
    but by itself it locks nothing. Where the file system has no locks (some NFS and Lustre mounts), a run that is seen
    to be alive on this host is still refused, one on another host is not; stderr says so. On Windows a byte of the file
    is locked (msvcrt). A child that this process forks without exec shares the lock until it has ended too. Raises
    RunConflict, and changes nothing, when another holds it; OSError where the file cannot be made.
    """

    def __init__(self, path: Path):
        self._descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            holder = self._holder()
            try:
                free = lock_file(self._descriptor)
            except OSError as error:
                free = not _alive_here(holder)
                if free:
                    print(
                        f"mcd: {path}: its file system has no locks ({error.strerror}); "
                        "nothing stops a run on another machine from writing into the same folder",
                        file=sys.stderr,
                    )
            if not free:
                pid, host, since = (str(holder.get(key, "unknown"))[:80] for key in ("pid", "host", "since"))
                raise RunConflict(
                    f"--out {path}: another run is at work there (process {pid} on {host}, since {since}); "
                    "wait until it has ended, stop it, or name a new folder"
                )
            since = datetime.now(UTC).isoformat(timespec="seconds")
            text = json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since}) + "\n"
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, text.encode())
        except BaseException:
            self.close()
            raise

    def _holder(self) -> dict[str, Any]:
        """What the file says of who took the lock last; empty when it says nothing."""
        try:
            value = parse_json(os.read(self._descriptor, 4096))
        except JSONError:
            return {}
        return value if isinstance(value, dict) else {}

    def close(self) -> None:
        """Let others run in the folder."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            self.close()


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
