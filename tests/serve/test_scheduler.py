"""Rows of many requests through one network: they are what they are alone, and calls are shared."""

import threading
from pathlib import Path

import pytest
import torch

pytest.importorskip("greenlet")

from mcd.api.model import Request, load
from mcd.checkpoints.folder import save_pretrained
from mcd.model.prior import prior
from mcd.sampler import SAMPLERS, sample
from mcd.sampler.choice import sampler_of
from mcd.serve.scheduler import Busy, Closed, Job, Scheduler


class Kept:
    """What a job told, and how it ended."""

    def __init__(self, request, num, seed, first_row=0):
        self.states, self.ended, self.errors = {}, threading.Event(), []
        self.job = Job(request, num, seed, self._tell, self._end, first_row)

    def _tell(self, number, step):
        self.states.setdefault(number, []).append(step)

    def _end(self, error):
        self.errors.append(error)
        self.ended.set()

    def ids(self):
        return torch.cat([self.states[number][-1].z for number in sorted(self.states)])


@pytest.fixture
def scheduler(model):
    scheduler = Scheduler(model.denoiser, capacity=64)
    yield scheduler
    scheduler.close(60.0)
    assert scheduler.accepted == 0


def requests(model):
    """Lengths, steps, temperatures, guidance and samplers of all kinds."""
    for i, (name, kind) in enumerate(SAMPLERS.items()):
        if kind.process == "masked":
            how = {"sampler": name, "steps": 2 + i % 4, "temperature": 0.5 + i / 10, "guidance": i % 2 / 2}
            yield model.request(f"The [MASK:{3 + i % 3}] of", **how)
    yield model.request(length=12, steps=5, order="stratified")
    yield model.request(length=12, steps=3, top_p=0.8)
    yield model.request(length=12, steps=3, top_p=0.8, guidance=0.5)
    yield model.request(length=24, steps=4)  # in windows


def test_rows_are_those_of_the_sampler_alone_to_the_bit_and_share_calls(model, scheduler):
    kept = [Kept(request, 3, seed=i, first_row=i) for i, request in enumerate(requests(model))]
    scheduler.submit(*(one.job for one in kept))
    for i, one in enumerate(kept):
        assert one.ended.wait(120) and one.errors == [None]
        request = one.job.request
        ids, nfe = sample(request.sampler, model.denoiser, 3, request.length, i, i, request.ids)
        assert torch.equal(one.ids(), ids), request
        assert [int(one.states[n][-1].nfe) for n in range(3)] == nfe.tolist()
        for states in one.states.values():
            assert states[0].t == 1.0 and states[-1].t == 0.0
    counts = scheduler.counts
    assert counts.rows > 2 * counts.calls and counts.rows <= counts.room


@pytest.mark.parametrize("process", ["uniform", "locked", "autoregressive"])
def test_rows_of_other_kinds_of_models_are_those_of_the_sampler_too(process, tiny_denoiser, tmp_path):
    """Autoregressive ones share no calls, and take turns token by token: of two jobs, neither waits for the other."""
    tokenizer = (Path(__file__).parents[1] / "data" / "bpe_2048.json").read_text(encoding="utf-8")
    save_pretrained(tiny_denoiser(V=2048, process=process), tmp_path, tokenizer)
    model = load(str(tmp_path), device="cpu")
    request = model.request(length=12, **({} if process == "autoregressive" else {"steps": 4}))
    first, second = (Kept(request, 3, 5, first_row=row) for row in (0, 3))
    told = []
    for name, one in (("first", first), ("second", second)):
        one.job.tell = lambda number, step, name=name, one=one: (told.append(name), one._tell(number, step))
    scheduler = Scheduler(model.denoiser)
    scheduler.submit(first.job, second.job)
    assert first.ended.wait(60) and second.ended.wait(60) and first.errors == second.errors == [None]
    scheduler.close(60.0)
    ids, _ = sample(request.sampler, model.denoiser, 6, 12, 5)
    assert torch.equal(torch.cat([first.ids(), second.ids()]), ids)
    assert told.index("second") < len(told) - 1 - told[::-1].index("first")
    assert (scheduler.counts.calls == 0) == (process == "autoregressive")


@pytest.mark.parametrize("process", ["masked", "locked"])
def test_guided_rows_in_bfloat16_are_those_of_the_sampler(process, tiny_denoiser):
    """The prior that guides them is of the precision in which the model is served."""
    denoiser = tiny_denoiser(V=64, process=process).requires_grad_(False)
    denoiser.dtype = torch.bfloat16
    sampler = sampler_of(process, steps=4, guidance=2.0)
    one = Kept(Request(sampler, torch.full((12,), denoiser.mask_id)), 8, 5)
    scheduler = Scheduler(denoiser)
    scheduler.submit(one.job)
    assert one.ended.wait(60) and one.errors == [None]
    scheduler.close(60.0)
    assert torch.equal(one.ids(), sample(sampler, denoiser, 8, 12, 5)[0])
    assert torch.equal(prior(scheduler._asking), prior(denoiser))


@pytest.mark.heavy
def test_many_rows_of_the_bundled_teacher():
    model = load("demo", device="cpu")
    scheduler = Scheduler(model.denoiser)
    templates = ["The [MASK:6] of the United States [MASK:4] peace.", "My fellow citizens, [MASK:8]"]
    asked = [model.request(templates[i % 2], steps=2 + i % 3) for i in range(10)]
    kept = [Kept(request, 2, seed=i // 2) for i, request in enumerate(asked)]
    scheduler.submit(*(one.job for one in kept))
    for i, one in enumerate(kept):
        assert one.ended.wait(300) and one.errors == [None]
        request = one.job.request
        ids, _ = sample(request.sampler, model.denoiser, 2, request.length, i // 2, 0, request.ids)
        assert torch.equal(one.ids(), ids)
    scheduler.close(60.0)
    assert scheduler.counts.rows > scheduler.counts.calls


def test_it_accepts_as_many_rows_as_it_may_and_nothing_once_it_is_closed(model):
    scheduler = Scheduler(model.denoiser, capacity=4)
    long = Kept(model.request(length=16, steps=2000), 4, 0)
    scheduler.submit(long.job)
    with pytest.raises(Busy) as busy:
        scheduler.submit(Kept(model.request(length=4), 1, 0).job)
    assert busy.value.retry_after_s >= 1
    while not long.states:
        pass
    long.job.cancel()
    short = Kept(model.request(length=4, steps=2), 4, 0)
    scheduler.submit(short.job)
    scheduler.close(60.0)  # what was accepted is finished
    assert short.errors == [None] and scheduler.accepted == 0 and not scheduler.ready
    assert long.errors == [] and len(long.states[0]) < 2000  # a cancelled job ends in silence
    with pytest.raises(Closed):
        scheduler.submit(Kept(model.request(length=4), 1, 0).job)


def test_a_cancelled_job_makes_room_at_once_though_its_network_call_goes_on(model, monkeypatch):
    hidden, inside, go_on = type(model.denoiser).hidden, threading.Event(), threading.Event()

    def slow(*args, **named):
        inside.set()
        assert go_on.wait(60)
        return hidden(*args, **named)

    monkeypatch.setattr(type(model.denoiser), "hidden", slow)
    scheduler = Scheduler(model.denoiser, capacity=4)
    left, unseen, next_one = (Kept(model.request(length=4, steps=2), 4, 0) for _ in range(3))
    scheduler.submit(left.job)
    assert inside.wait(60)
    for job in (left.job, unseen.job):  # one that is in a call, and one that the thread has not seen yet
        if job is unseen.job:
            scheduler.submit(job)
        assert scheduler.accepted == 4
        job.cancel()
        assert scheduler.accepted == 0
    scheduler.submit(next_one.job)
    with pytest.raises(Busy):
        scheduler.submit(Kept(model.request(length=4), 1, 0).job)
    go_on.set()
    assert next_one.ended.wait(60) and next_one.errors == [None]
    scheduler.close(60.0)
    assert scheduler.accepted == 0 and left.errors == unseen.errors == []


def test_a_failure_ends_its_own_job_and_no_other(model, scheduler, monkeypatch):
    good, bad = (Kept(model.request(length=length, steps=3), 2, 0) for length in (6, 9))
    hidden = type(model.denoiser).hidden

    def failing(self, z_t, *args, **named):
        if z_t.shape[1] == 9 and len(z_t) > 1:
            raise RuntimeError("no memory")
        return hidden(self, z_t, *args, **named)

    monkeypatch.setattr(type(model.denoiser), "hidden", failing)
    scheduler.submit(good.job, bad.job)
    assert good.ended.wait(60) and bad.ended.wait(60)
    assert good.errors == [None] and [str(error) for error in bad.errors] == ["no memory"]
