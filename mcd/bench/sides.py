"""What the worker processes can be asked to do: the same work, our way and the peers' way."""

import time
from abc import ABC, abstractmethod
from itertools import islice
from typing import Any, TypedDict

import torch
from torch import Tensor

from mcd.bench.memory import AboveGradients, forget_peak, peak, release_freed, resident
from mcd.bench.models import Size, random_denoiser, random_rows
from mcd.bench.peers import PeersEMA, PeersLoss, mcd_loss, sample_cached, subs
from mcd.bench.peers_dit import peers_dit
from mcd.bench.products import Product, best_seconds, products_of
from mcd.model.ema import EMA
from mcd.model.linear import use_linear
from mcd.objective import OBJECTIVES
from mcd.objective.base import Clock, Loss
from mcd.objective.mcd import MCD
from mcd.process.draws import Draws
from mcd.sampler.ancestral import Ancestral
from mcd.training.config import TrainConfig
from mcd.training.optimizer import make_optimizers
from mcd.training.step import update

LR, BETAS, CLIP, EMA_DECAY = 6e-5, (0.9, 0.999), 1.0, 0.999
TRAINING = TrainConfig(lr=LR, betas=BETAS, clip_norm=CLIP)


class Sampled(TypedDict):
    """The seconds and the network calls of each step, and the calls per row as the side counts them (`nfe`).

    `calls` of ours are the rows that entered the network in the meantime (rows may be ahead of the step that is due);
    of the peers, 0 or 1 for all rows together.
    """

    seconds: list[float]
    calls: list[float]
    nfe: float


class Side(ABC):
    """A worker's state: a student, a teacher and what trains the student. A benchmark may ask for any public method."""

    size: Size
    batch: int
    student: Any
    """Our `Denoiser`, or the peers' `PeersDiT`."""

    def threads(self) -> int:
        """Threads of torch in this process."""
        return torch.get_num_threads()

    @abstractmethod
    def build(self, size: Size, batch: int, method: str | None, options: dict[str, Any]) -> int:
        """Make the networks (only a student when `method` is None) and the optimiser; returns parameters of one.

        options: the method's, and those of the class.
        """

    @abstractmethod
    def step(self, seed: int) -> dict[str, float]:
        """One whole training step on rows and draws of `seed`: its seconds, and the loss with its parts before it."""

    @abstractmethod
    def sample(self, steps: int, seed: int, first: int | None = None) -> Sampled:
        """Sample `batch` rows, or make only the `first` steps of that."""

    def parameters(self) -> list[torch.nn.Parameter]:
        """Parameters of the student."""
        return list(self.student.parameters())

    def resident(self) -> int:
        """Bytes in memory between two steps."""
        release_freed()
        return resident()

    def memory(self, seed: int) -> dict[str, int]:
        """Bytes of a step: `total`, its peak above the memory between steps; `above`, that of `AboveGradients`."""
        rest = self.resident()
        forget_peak()
        self.step(seed)
        total = peak() - rest
        above = AboveGradients(self.parameters())
        self.step(seed)
        return {"above": above.end(), "total": total}

    def sample_memory(self, steps: int, seed: int, first: int) -> int:
        """Peak of sampling above the weights, bytes."""
        rest = self.resident()
        forget_peak()
        self.sample(steps, seed, first)
        return peak() - rest

    def products(self, seed: int) -> tuple[list[Product], float]:
        """The matrix products of one step, and its seconds; see `products.products_of`."""
        return products_of(lambda: self.step(seed))

    def best_seconds(self, product: Product) -> float:
        """Seconds of one such product alone; see `products.best_seconds`."""
        return best_seconds(product)

    def rows(self, seed: int) -> Tensor:
        """The rows of a step, the same on both sides."""
        return random_rows(self.size, self.batch, seed)


class Ours(Side):
    """This tool: objective, sampler, optimiser and average as `mcd distill` and `mcd sample` run them.

    Option `checkpointing`: keep only what enters each block of the student, as `--checkpoint-activations`.
    """

    def build(self, size: Size, batch: int, method: str | None, options: dict[str, Any]) -> int:
        self.size, self.batch = size, batch
        self.student = random_denoiser(size, seed=0)
        if method is None:
            self.student.eval().requires_grad_(False)
        else:
            options = dict(options)
            self.student.backbone.checkpointing = options.pop("checkpointing", False)
            options.pop("our_linear", None)
            self.objective = OBJECTIVES[method](**options)
            self.teacher = None
            if self.objective.distils:
                self.teacher = random_denoiser(size, seed=1).eval().requires_grad_(False)
            self.student.train()
            (self.optimizer,) = make_optimizers(self.student, TRAINING)
            self.ema = EMA(self.student, EMA_DECAY)
        return sum(p.numel() for p in self.student.parameters())

    def step(self, seed: int) -> dict[str, float]:
        x0 = self.rows(seed)
        started = time.perf_counter()
        B, L = x0.shape
        draws = Draws(torch.Generator().manual_seed(seed), B, L)
        loss: Loss = self.objective.loss(self.student, self.teacher, x0, Clock(), draws)
        loss.total.backward()
        update(self.student, [self.optimizer], CLIP, LR)
        self.ema.update(self.student)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, **loss.as_floats()}

    def sample(self, steps: int, seed: int, first: int | None = None) -> Sampled:
        sampler = Ancestral(steps)
        z = torch.full((self.batch, self.size.length), self.student.blank_id)
        called: list[int] = []
        hook = self.student.backbone.register_forward_pre_hook(  # args: x, sigma, rows, group; some of x is padding
            lambda _, args: called.append(len((args[2] // self.size.length).unique()))
        )
        started = time.perf_counter()
        trajectory = sampler.trajectory(self.student, z, range(self.batch), seed)
        nfe, seconds, calls = next(trajectory).nfe, [], []
        for step in islice(trajectory, first):
            seconds.append(time.perf_counter() - started)
            calls.append(float(sum(called)))
            nfe = step.nfe
            called.clear()
            started = time.perf_counter()
        hook.remove()
        return {"seconds": seconds, "calls": calls, "nfe": nfe.double().mean().item()}


class Peers(Side):
    """The peers' way: `mcd.bench.peers`, AdamW with its defaults, clipping as Lightning does it.

    Option `our_linear`: layers multiply as ours do (`mcd.model.linear`), instead of torch.nn.Linear.
    """

    def build(self, size: Size, batch: int, method: str | None, options: dict[str, Any]) -> int:
        self.size, self.batch = size, batch
        student = random_denoiser(size, seed=0)
        self.schedule, self.mask_id = student.config.schedule, student.mask_id
        self.student = peers_dit(student)
        if method is None:
            self.student.eval().requires_grad_(False)
        elif method != "mcd":
            raise ValueError(f"the peers' way is written for mcd, not for {method}")
        else:
            options = {name: value for name, value in options.items() if name != "checkpointing"}
            our_linear = options.pop("our_linear", False)
            self.objective = MCD(**options)
            self.teacher = peers_dit(random_denoiser(size, seed=1)).eval().requires_grad_(False)
            if our_linear:
                use_linear(self.student)
                use_linear(self.teacher)
            self.student.train()
            self.optimizer = torch.optim.AdamW(self.student.parameters(), LR, BETAS, eps=1e-8, weight_decay=0.0)
            self.ema = PeersEMA(self.student.parameters(), EMA_DECAY)
        return sum(p.numel() for p in self.student.parameters())

    def step(self, seed: int) -> dict[str, float]:
        x0, generator = self.rows(seed), torch.Generator().manual_seed(seed)
        started = time.perf_counter()
        loss: PeersLoss = mcd_loss(
            self.student, self.teacher, x0, self.objective, self.schedule, self.mask_id, Clock(), generator
        )
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.student.parameters())
        seconds = time.perf_counter() - started
        terms = {name: getattr(loss, name).item() for name in ("distillation", "reconstruction")}
        return {"seconds": seconds, "loss": loss.total.item(), **terms}

    def sample(self, steps: int, seed: int, first: int | None = None) -> Sampled:
        generator = torch.Generator().manual_seed(seed)
        run = sample_cached(self.student, self.batch, self.size.length, steps, self.mask_id, generator)
        taken = [(step.seconds, float(step.called)) for step in islice(run, first)]
        calls = [called for _, called in taken]
        return {"seconds": [seconds for seconds, _ in taken], "calls": calls, "nfe": sum(calls)}

    def network_call(self) -> float:
        """Seconds of one call over the whole batch, as noise removal makes it."""
        z = torch.full((self.batch, self.size.length), self.mask_id)
        with torch.no_grad():
            started = time.perf_counter()
            subs(self.student(z), z, self.mask_id).argmax(-1)
            return time.perf_counter() - started
