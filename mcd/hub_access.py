"""Access to the Hugging Face hub without a long wait when it cannot be reached. Imports no other module of mcd.

Without a server, the hub's client repeats each request five times, which takes 23 s for every file. So one
connection is tried first. If it fails, the client works as under HF_HUB_OFFLINE: files in its cache are found, and
everything else fails at once.
"""

import contextlib
import os
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

SECONDS = 4.0
"""Longest wait for a connection, including the look-up of the name."""
_TRUE = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True)
class Access:
    """Whether the hub can be reached: `fault` says why not; it is None if the hub can be reached."""

    fault: str | None

    def refusal(self, error: BaseException) -> str:
        """The message for a request that failed, to be appended to the name of the requested file."""
        if self.fault is None:
            return f"the Hugging Face hub did not give it ({type(error).__name__})"
        return (
            f"{self.fault}, and the cache on this machine does not have it ({type(error).__name__}); download it where "
            "there is a network, and give its folder"
        )


@contextlib.contextmanager
def hub_access() -> Iterator[Access]:
    """Inside the block, the client of the hub does not repeat requests to a server that cannot be reached."""
    access = _access()
    import huggingface_hub.constants  # noqa: F401 - tokenizers imports it only when it asks

    modules = [sys.modules.get(name) for name in ("huggingface_hub.constants", "datasets.config")]
    held: list[tuple[Any, bool]] = [(module, module.HF_HUB_OFFLINE) for module in modules if module is not None]
    try:
        if access.fault is not None:
            for module, _ in held:
                module.HF_HUB_OFFLINE = True
        yield access
    finally:
        for module, offline in held:
            module.HF_HUB_OFFLINE = offline


def _access() -> Access:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE:
        return Access("HF_HUB_OFFLINE is set, so the Hugging Face hub is not used")
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    fault = _unreachable(endpoint)
    return Access(None if fault is None else f"the Hugging Face hub ({endpoint}) cannot be reached ({fault})")


def _unreachable(endpoint: str) -> str | None:
    """Why no connection to `endpoint` can be made, within SECONDS; None where one can, or a proxy would make it."""
    url = urlsplit(endpoint)
    host, port = url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
    proxies = urllib.request.getproxies()
    if (url.scheme in proxies or "all" in proxies) and not urllib.request.proxy_bypass(host):
        return None
    found = ["no answer"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=SECONDS).close()
            found[0] = ""
        except (OSError, UnicodeError) as error:
            found[0] = str(error) or type(error).__name__

    thread = threading.Thread(target=connect, daemon=True)  # looking up a name has no time limit of its own
    thread.start()
    thread.join(SECONDS)
    return found[0] or None
