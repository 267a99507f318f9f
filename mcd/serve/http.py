"""The HTTP server: OpenAI's routes over a `Scheduler`, with limits, an API key, and metrics."""

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import mcd
from mcd.api.blank import Blank
from mcd.api.model import Model
from mcd.errors import RequestError
from mcd.serve.completions import Completion, CompletionRequest, blanks_of
from mcd.serve.limits import Limits
from mcd.serve.refusal import BodyLimit, Counted, Refusal, in_fields
from mcd.serve.scheduler import Scheduler
from mcd.serve.work import Work

T = TypeVar("T")
QUICK = 1000
"""So many bytes of a request are read in 3 ms, and so many tokens of its rows written."""


class Service:
    """The work of the routes: a model, its name, its scheduler, and what is counted."""

    def __init__(self, model: Model, name: str, limits: Limits):
        self.model, self.name, self.limits = model, name, limits
        self.scheduler = Scheduler(model.denoiser, limits.queue)
        self.started = int(time.time())
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mcd_requests", "Completion requests by status of the answer", ["status"], registry=self.registry
        )
        self.seconds = Histogram(
            "mcd_request_seconds", "Time of completion requests until the answer began", registry=self.registry
        )
        self.tokens = Counter("mcd_tokens", "Tokens written", registry=self.registry)
        counts = self.scheduler.counts
        for name_of, text, read in (
            ("mcd_rows_in_work", "Rows accepted and not done", lambda: self.scheduler.accepted),
            ("mcd_network_calls", "Network calls", lambda: counts.calls),
            ("mcd_network_call_rows", "Rows in network calls", lambda: counts.rows),
            ("mcd_network_call_room", "Rows that network calls had room for", lambda: counts.room),
        ):
            Gauge(name_of, text, registry=self.registry).set_function(read)

    def count(self, status: int, seconds: float) -> None:
        """An answer to a completion request has begun."""
        self.requests.labels(str(status)).inc()
        self.seconds.observe(seconds)

    def prepared(self, body: CompletionRequest) -> list[Blank]:
        """The rows to draw. Raises Refusal."""
        if body.model != self.name:
            message = f"the model {body.model!r:.100} does not exist; this server has {self.name!r}"
            raise Refusal(404, message, "model", "model_not_found")
        try:
            blanks = blanks_of(body, self.model)
        except RequestError as error:
            message = in_fields(str(error))
            named = message.split(":")[0].split(" ")[0]
            raise Refusal(400, message, named if named in CompletionRequest.model_fields else None) from None
        longest = self.limits.max_length or self.model.length
        if (length := max(blank.request.length for blank in blanks)) > longest:
            message = f"a row of {length} tokens, with the prompt, is longer than the {longest} that the server accepts"
            raise Refusal(400, message, code="context_length_exceeded")
        if len(blanks) * body.n > self.limits.queue:
            raise Refusal(400, f"{len(blanks) * body.n} rows are more than the {self.limits.queue} that may wait", "n")
        return blanks

    async def complete(self, body: CompletionRequest, request: Request) -> Completion:
        """The answer to a request, when all its rows are done."""
        work = await self._work(body, request)
        async with work.within(self.limits.timeout):
            gone = asyncio.create_task(_disconnected(request))
            done = asyncio.create_task(work.finished())
            try:
                await asyncio.wait((gone, done), return_when=asyncio.FIRST_COMPLETED)
                if not done.done():
                    raise Refusal(499, "the client left")
                done.result()
            finally:
                gone.cancel()
                done.cancel()
        return await self._answer(work)

    async def stream(self, body: CompletionRequest, request: Request) -> AsyncIterator[str]:
        """The events of a request: the canvas of every row after each step, then all texts, then [DONE].

        Whoever reads slowly gets the latest canvas of each row, not all of them. What is refused is refused before
        anything is sent; a later failure is an event.
        """
        work = await self._work(body, request)

        async def events() -> AsyncIterator[str]:
            try:
                async with work.within(self.limits.timeout):
                    async for states in work.states():
                        shown = await _off_loop(work.tokens, work.canvas, states)
                        yield f"data: {shown.model_dump_json(exclude_none=True)}\n\n"
                last = await self._answer(work)
                yield f"data: {last.model_dump_json()}\n\n"
                yield "data: [DONE]\n\n"
            except Refusal as refusal:
                yield f"data: {json.dumps(refusal.content)}\n\n"

        return events()

    async def _work(self, body: CompletionRequest, request: Request) -> Work:
        size = len(await request.body())
        return Work(self.model, self.scheduler, body, await _off_loop(size, self.prepared, body))

    async def _answer(self, work: Work) -> Completion:
        completion = await _off_loop(work.tokens, work.completion)
        self.tokens.inc(completion.usage.completion_tokens if completion.usage else 0)
        return completion


async def _off_loop(size: int, work: Callable[..., T], *args: Any) -> T:
    """What `work` returns. It runs in another thread if there is much to do, so that other requests do not wait for it;
    a little takes less time than waking that thread, and this one again."""
    return await run_in_threadpool(work, *args) if size > QUICK else work(*args)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The description, without the status 422 that FastAPI adds: what cannot be read gets 400 here."""
        if self.openapi_schema is None:
            described = super().openapi()
            for operations in described["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                described.get("components", {}).get("schemas", {}).pop(name, None)
        return super().openapi()


def app_of(service: Service, api_key: str | None = None, cors: tuple[str, ...] = ()) -> FastAPI:
    """The application. api_key: what `Authorization: Bearer` must hold, for all routes below /v1. cors: origins whose
    pages may call it; none by default."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.scheduler.close)

    errors: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": {"application/json": {}}}
        for status, text in {
            400: "The request makes no sense",
            401: "No key, or a wrong one",
            404: "No such model",
            413: "The body is too large",
            429: "Too much work",
            500: "Drawing failed",
            503: "Shutting down",
            504: "Took too long",
        }.items()
    }
    app = _App(title="mcd", version=mcd.__version__, lifespan=lifespan)
    app.add_middleware(BodyLimit, limit=service.limits.max_body)
    app.add_middleware(Counted, path="/v1/completions", count=service.count)
    if cors:
        app.add_middleware(CORSMiddleware, allow_origins=list(cors), allow_methods=["*"], allow_headers=["*"])

    async def allowed(request: Request) -> None:  # FastAPI gives a thread to what is not async
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.encode(), (api_key or "").encode())
        if api_key is not None and not (same and scheme.lower() == "bearer"):
            raise Refusal(401, "the API key is missing or wrong", code="invalid_api_key")

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> JSONResponse:
        return refusal.response()

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        kind, where = request.headers.get("content-type", ""), str(first["loc"][1]) if len(first["loc"]) > 1 else None
        said = "has no meaning here; leave it out" if first["type"] == "none_required" else first["msg"]
        if where is None and not kind.startswith("application/json"):
            said = "must be JSON, with the header Content-Type: application/json"
        field = where if where in CompletionRequest.model_fields else None
        return Refusal(
            400, f"{where if field or first['type'] == 'extra_forbidden' else 'body'}: {said}", field
        ).response()

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        return Refusal(error.status_code, str(error.detail), **(error.headers or {})).response()

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: errors[503]})
    async def ready() -> dict[str, str]:
        """Whether it takes work."""
        if not service.scheduler.ready:
            raise Refusal(503, "the server is shutting down")
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Counters for Prometheus."""
        return PlainTextResponse(generate_latest(service.registry), media_type="text/plain; version=0.0.4")

    about = {"id": service.name, "object": "model", "created": service.started, "owned_by": "mcd"}

    @app.get("/v1/models", dependencies=[Depends(allowed)], responses={401: errors[401]})
    async def models() -> dict[str, Any]:
        """The one model of this server."""
        return {"object": "list", "data": [about]}

    @app.get("/v1/models/{name:path}", dependencies=[Depends(allowed)], responses={c: errors[c] for c in (401, 404)})
    async def one_model(name: str) -> dict[str, Any]:
        """The model of a name."""
        if name != service.name:
            raise Refusal(404, f"the model {name!r:.100} does not exist", "model", "model_not_found")
        return about

    @app.post("/v1/completions", dependencies=[Depends(allowed)], responses=errors, response_model=Completion)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Fill in a blank after a prompt, before a suffix, or the blanks of a template."""
        if body.stream:
            return StreamingResponse(await service.stream(body, request), media_type="text/event-stream")
        answer = await service.complete(body, request)
        return Response(answer.model_dump_json(), media_type="application/json")  # FastAPI would validate it again

    return app
