"""Answers that are errors, in OpenAI's form; the limit of the bytes of a request's body; and the count of answers."""

import re
import time
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Refusal(Exception):
    """An answer that is an error: its status, and the message in OpenAI's form."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None, **headers: str):
        super().__init__(message)
        kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
        self.content = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.status, self.headers = status, headers

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.content, self.status, self.headers)


class BodyLimit:
    """Middleware: refuses a body of more than `limit` bytes with status 413, whether or not the request says how long
    it is, and reads no more of it."""

    def __init__(self, app: ASGIApp, limit: int):
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        said = dict(scope.get("headers", ())).get(b"content-length", b"0")
        read = int(said) if said.isdigit() and int(said) > self.limit else 0

        async def limited() -> Message:
            nonlocal read
            message = {"type": "http.request"} if read > self.limit else await receive()
            read += len(message.get("body", b""))
            if read > self.limit:
                message = f"the body is larger than the {self.limit:,} bytes that the server accepts"
                raise HTTPException(413, message, {"Connection": "close"})
            return message

        await self.app(scope, limited, send)


class Counted:
    """Middleware: calls `count` with the status of every answer to `path` and the seconds until it began, also of those
    that no route gave: a wrong key, a body that cannot be read."""

    def __init__(self, app: ASGIApp, path: str, count: Callable[[int, float], None]):
        self.app, self.path, self.count = app, path, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope.get("path") != self.path:
            await self.app(scope, receive, send)
            return
        started, begun = time.monotonic(), False

        async def seen(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self.count(message["status"], time.monotonic() - started)
            await send(message)

        try:
            await self.app(scope, receive, seen)
        except Exception:
            if not begun:
                self.count(500, time.monotonic() - started)
            raise


def in_fields(message: str) -> str:
    """A message of the command line in the words of a request: `--top-p` is its field top_p. It has no length."""
    return re.sub(
        r"--([a-z][a-z-]*)", lambda option: option[1].replace("-", "_"), message.replace(", or give --length", "")
    )
