"""What the worker processes can be asked to do: the same work, our way and the peers' way."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypedDict

import torch
from torch import Tensor

from mcd.bench.memory import AboveGradients, forget_peak, peak, release_freed, resident
from mcd.bench.models import CPU, Size, random_denoiser, random_rows
from mcd.bench.peers import PeersEMA, PeersLoss, PeersStep, sample_cached, subs
from mcd.bench.peers_dit import peers_dit
from mcd.bench.peers_methods import PEERS_LOSSES
from mcd.bench.products import Product, best_seconds, products_of
from mcd.model.ema import EMA
from mcd.model.linear import use_linear
from mcd.objective import OBJECTIVES
from mcd.objective.base import Clock, Loss
from mcd.process.draws import Draws
from mcd.process.transfer import checks_later
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


@dataclass(frozen=True)
class Counted(Ancestral):
    """The ancestral sampler, which notes how many rows each network call was made for; the call is padded."""

    called: list[int] = field(default_factory=list)

    def hidden(self, denoiser: Any, z: Tensor, *args: Any, **options: Any) -> Tensor:
        """As of every sampler."""
        self.called.append(len(z))
        return super().hidden(denoiser, z, *args, **options)


class Side(ABC):
    """A worker's state: a student, a teacher and what trains the student. A benchmark may ask for any public method.

    device: where the networks are. half: products in bfloat16, under autocast, in training and in drawing.
    """

    size: Size
    batch: int
    student: Any
    """Our `Denoiser`, or the peers' `PeersDiT`."""

    def __init__(self, device: torch.device = CPU, half: bool = False):
        self.device, self.half = device, half

    def now(self) -> float:
        """A time in seconds, when the device has done what is queued there."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

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
    def sample(self, steps: int, seed: int, first: int | None = None, limit: float = math.inf) -> Sampled:
        """Sample `batch` rows, or make only the `first` steps of that, or those that begin within `limit` seconds."""

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
        self.student = random_denoiser(size, 0, self.device)
        if method is None:
            self.student.eval().requires_grad_(False)
            self.student.dtype = torch.bfloat16 if self.half else torch.float32
        else:
            options = dict(options)
            self.student.backbone.checkpointing = options.pop("checkpointing", False)
            options.pop("our_linear", None)
            self.objective = OBJECTIVES[method](**options)
            self.teacher = None
            if self.objective.distils:
                self.teacher = random_denoiser(size, 1, self.device).eval().requires_grad_(False)
            self.student.train()
            (self.optimizer,) = make_optimizers(self.student, TRAINING)
            self.ema = EMA(self.student, EMA_DECAY)
        return sum(p.numel() for p in self.student.parameters())

    def step(self, seed: int) -> dict[str, float]:
        x0 = self.rows(seed)
        started = self.now()
        B, L = x0.shape
        draws = Draws(torch.Generator().manual_seed(seed), B, L)
        with checks_later():
            with self.autocast():
                loss: Loss = self.objective.loss(self.student, self.teacher, x0, Clock(), draws)
            loss.total.backward()
        update(self.student, [self.optimizer], CLIP, LR)
        self.ema.update(self.student)
        seconds = self.now() - started
        return {"seconds": seconds, **loss.as_floats()}

    def sample(self, steps: int, seed: int, first: int | None = None, limit: float = math.inf) -> Sampled:
        sampler = Counted(steps)
        z = torch.full((self.batch, self.size.length), self.student.blank_id)
        seconds: list[float] = []
        calls: list[float] = []
        with checks_later():
            started = self.now()
            trajectory = sampler.trajectory(self.student, z, range(self.batch), seed)
            nfe = next(trajectory).nfe
            for step in islice(trajectory, first):
                seconds.append(self.now() - started)
                calls.append(float(sum(sampler.called)))
                nfe = step.nfe
                sampler.called.clear()
                if sum(seconds) >= limit:
                    break
                started = self.now()
        return {"seconds": seconds, "calls": calls, "nfe": nfe.double().mean().item()}


class Peers(Side):
    """The peers' way: `mcd.bench.peers`, AdamW with its defaults, clipping as Lightning does it.

    Option `our_linear`: layers multiply as ours do (`mcd.model.linear`), instead of torch.nn.Linear.
    """

    def build(self, size: Size, batch: int, method: str | None, options: dict[str, Any]) -> int:
        self.size, self.batch = size, batch
        student = random_denoiser(size, 0, self.device)
        self.config = student.config
        self.student = peers_dit(student)
        if method is None:
            self.mask_id = student.mask_id
            self.student.eval().requires_grad_(False)
        elif method not in PEERS_LOSSES:
            raise ValueError(f"the peers' way is written for {', '.join(PEERS_LOSSES)}, not for {method}")
        else:
            options = {name: value for name, value in options.items() if name != "checkpointing"}
            our_linear = options.pop("our_linear", False)
            self.loss, self.objective = PEERS_LOSSES[method], OBJECTIVES[method](**options)
            self.teacher = None
            if self.objective.distils:
                self.teacher = peers_dit(random_denoiser(size, 1, self.device)).eval().requires_grad_(False)
            for network in (self.student, self.teacher):
                if our_linear and network is not None:
                    use_linear(network)
            self.student.train()
            self.optimizer = torch.optim.AdamW(self.student.parameters(), LR, BETAS, eps=1e-8, weight_decay=0.0)
            self.ema = PeersEMA(self.student.parameters(), EMA_DECAY)
        return sum(p.numel() for p in self.student.parameters())

    def step(self, seed: int) -> dict[str, float]:
        x0 = self.rows(seed)
        started = self.now()
        B, L = x0.shape
        draws = Draws(torch.Generator().manual_seed(seed), B, L)
        with self.autocast():
            loss: PeersLoss = self.loss(
                self.student, self.teacher, x0.to(self.device), self.objective, self.config, draws
            )
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.student.parameters())
        seconds = self.now() - started
        terms = {name: getattr(loss, name).item() for name in ("distillation", "reconstruction")}
        return {"seconds": seconds, "loss": loss.total.item(), **terms}

    def sample(self, steps: int, seed: int, first: int | None = None, limit: float = math.inf) -> Sampled:
        taken: list[tuple[float, float]] = []
        with self.autocast():
            for step in islice(self._run(steps, seed), first):
                taken.append((step.seconds, float(step.called)))
                if sum(seconds for seconds, _ in taken) >= limit:
                    break
        calls = [called for _, called in taken]
        return {"seconds": [seconds for seconds, _ in taken], "calls": calls, "nfe": sum(calls)}

    def _run(self, steps: int, seed: int) -> Iterator[PeersStep]:
        generator = torch.Generator(self.device).manual_seed(seed)
        return sample_cached(self.student, self.batch, self.size.length, steps, self.mask_id, generator)

    def network_call(self) -> float:
        """Seconds of one call over the whole batch, as noise removal makes it."""
        z = torch.full((self.batch, self.size.length), self.mask_id, device=self.device)
        with torch.no_grad(), self.autocast():
            started = self.now()
            subs(self.student(z), z, self.mask_id).argmax(-1)
            return self.now() - started
