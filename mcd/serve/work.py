"""One request while its rows are drawn, seen from the event loop."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from mcd.api.blank import Blank
from mcd.api.model import Model
from mcd.api.results import State
from mcd.sampler import Step
from mcd.serve.completions import Choice, Completion, CompletionRequest, Usage, seed_of
from mcd.serve.refusal import Refusal
from mcd.serve.scheduler import Busy, Closed, Job, Scheduler


class Work:
    """The rows of a request in the scheduler. Raises Refusal where they are not accepted."""

    def __init__(self, model: Model, scheduler: Scheduler, body: CompletionRequest, blanks: list[Blank]):
        self.model, self.body, self.blanks, self.seed = model, body, blanks, seed_of(body)
        self.id, self.created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
        self.loop, self.changed = asyncio.get_running_loop(), asyncio.Event()
        self.latest: dict[int, Step] = {}  # by index of the choice
        self.fresh: dict[int, Step] = {}
        self.left, self.error = len(blanks), None  # jobs that are not done, and what went wrong
        self.jobs = [
            Job(blank.request, body.n, self.seed, self._tell(i * body.n), self._end, first_row=i * body.n)
            for i, blank in enumerate(blanks)
        ]
        try:
            scheduler.submit(*self.jobs)
        except Busy as busy:
            headers = {"Retry-After": str(busy.retry_after_s)}
            raise Refusal(429, str(busy), code="rate_limit_exceeded", **headers) from None
        except Closed as closed:
            raise Refusal(503, str(closed)) from None

    @property
    def tokens(self) -> int:
        """Of all its rows."""
        return self.body.n * sum(blank.request.length for blank in self.blanks)

    @contextlib.asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """Around waiting: cancels the rows when the time is over, or whoever waits is gone."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise Refusal(504, f"the request took longer than {seconds:g} s; ask for less") from None
        finally:
            for job in self.jobs:
                job.cancel()

    async def finished(self) -> None:
        """Wait until all rows are done. Raises Refusal."""
        async for _ in self.states():
            pass

    async def states(self) -> AsyncIterator[dict[int, Step]]:
        """The latest states of the rows that have new ones, by index of the choice."""
        while self.left or self.fresh:
            await self.changed.wait()
            self.changed.clear()
            if self.error is not None:
                raise Refusal(500, f"drawing failed ({type(self.error).__name__}: {self.error})")
            fresh, self.fresh = self.fresh, {}
            if fresh:
                yield fresh

    def canvas(self, states: dict[int, Step]) -> Completion:
        """An event of the stream."""
        model, choices = self.model, []
        for index, step in sorted(states.items()):
            state = State(step.t, step.z, step.nfe.tolist(), model.denoiser.blank_id, model.writer)
            choices.append(Choice(index=index, text="", finish_reason=None, canvas=state.texts[0], t=round(step.t, 6)))
        return self._of(choices, None)

    def completion(self) -> Completion:
        """The answer."""
        choices, tokens = [], 0
        for index, step in sorted(self.latest.items()):
            blank = self.blanks[index // self.body.n]
            text, reason, length = blank.read(self.model, step.z[0].cpu())
            choices.append(Choice(index=index, text=text, finish_reason=reason))
            tokens += length
        blank_id = self.model.denoiser.blank_id
        prompt = sum(int((blank.request.ids != blank_id).sum()) for blank in self.blanks)
        nfe = sum(int(step.nfe) for step in self.latest.values())
        usage = Usage(prompt_tokens=prompt, completion_tokens=tokens, total_tokens=prompt + tokens, nfe=nfe)
        return self._of(choices, usage)

    def _of(self, choices: list[Choice], usage: Usage | None) -> Completion:
        about: dict[str, Any] = {"id": self.id, "created": self.created, "model": self.body.model, "seed": self.seed}
        return Completion(choices=choices, usage=usage, **about)

    def _tell(self, first: int) -> Callable[[int, Step], None]:
        def tell(number: int, step: Step) -> None:
            if self.body.stream:
                self._in_loop(self._keep, first + number, step)
            else:  # the end alone is worth waking the loop for, and it comes after all states
                self.latest[first + number] = step

        return tell

    def _end(self, error: Exception | None) -> None:
        self._in_loop(self._keep_end, error)

    def _in_loop(self, call: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self.loop.call_soon_threadsafe(call, *args)

    def _keep(self, index: int, step: Step) -> None:
        self.latest[index] = self.fresh[index] = step
        self.changed.set()

    def _keep_end(self, error: Exception | None) -> None:
        self.left, self.error = self.left - 1, self.error or error
        self.changed.set()
