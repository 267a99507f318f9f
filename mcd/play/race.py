"""Several models, or one at several numbers of steps, that write the same row at the same pace of the process."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mcd.api.model import Model
from mcd.api.results import State
from mcd.errors import RequestError
from mcd.play.canvas import Canvas, canvas_of


@dataclass(frozen=True)
class Lane:
    """What one model has written: `t` falls from 1 to 0, `nfe` are its network calls, `seconds` its own time.

    refused: why it writes nothing; notes: what whoever asked should know.
    """

    canvas: Canvas | None = None
    t: float = 1.0
    nfe: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    refused: str | None = None

    def after(self, state: State, seconds: float) -> "Lane":
        """The lane after the next state, which took so many seconds."""
        assert self.canvas is not None
        canvas = self.canvas.after(state)
        return replace(self, canvas=canvas, t=state.t, nfe=state.nfe[0], seconds=self.seconds + seconds)


def race(
    entries: Sequence[tuple[Model, int]], template: str | None = None, seed: int = 0, **how: Any
) -> Iterator[list[Lane]]:
    """The lanes of all entries (model, steps) after each step of one of them.

    The row, seed and options are the same for all, so that what differs comes from the model and its steps. The step is
    always that of the lane whose time is furthest behind, so that the canvases fill together, and a lane's seconds hold
    nothing of the others. An autoregressive model takes one step per token, whatever is asked. how: as of
    `Model.request`. A request that a model refuses fills its lane with the reason; other lanes go on.
    """
    lanes, walks = [], []
    for model, steps in entries:
        wanted = None if model.process == "autoregressive" else steps
        try:
            request = model.request(template, steps=wanted, **how)
        except RequestError as error:
            lanes.append(Lane(t=0.0, refused=str(error)))
            walks.append(iter(()))
            continue
        canvas = canvas_of(request.ids, model.denoiser.blank_id, request.sampler.steps)
        lanes.append(Lane(canvas, notes=request.notes))
        walks.append(model.states(request, seed=seed))
    for n in range(len(lanes)):
        if lanes[n].canvas is not None:
            lanes[n] = lanes[n].after(next(walks[n]), 0.0)
    yield list(lanes)
    while any(lane.t > 0.0 for lane in lanes):
        n = max(range(len(lanes)), key=lambda i: lanes[i].t)
        start = time.perf_counter()
        state = next(walks[n])
        lanes[n] = lanes[n].after(state, time.perf_counter() - start)
        yield list(lanes)
