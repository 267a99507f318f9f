"""Is the twin of `mcd bench` as fast as the public code it stands for? Each runs in its own process, on the same
weights, and they alternate.

Give it a clone of MDLM (github.com/kuleshov-group/mdlm; written for commit c112c52). Its own `models/dit.py`,
`diffusion.py` (forward, SUBS, `_sample` with `ddpm_cache`), `noise_schedule.py` and `models/ema.py` are imported
unchanged. Their imports that the work does not need (lightning, hydra, omegaconf, torchmetrics, transformers, its
data loader) are stubbed; einops' three rearrangements and flash attention's two functions are replaced by views and
PyTorch's scaled_dot_product_attention. MDLM has no distillation, so the step is the MCD loss written with its forward
in the form of Duo's `kl-bwd` (log-probs of all B x L positions, masked afterwards), AdamW and MDLM's EMA. For float64
its forward is cast before exp, as Duo's code does.

    python benchmarks/public_code.py --mdlm CLONE [--json FILE]
"""

import argparse
import json
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from mcd.bench.models import SMALL, Size, random_denoiser, random_rows
from mcd.bench.sides import BETAS, CLIP, EMA_DECAY, LR, Peers, Sampled
from mcd.bench.worker import Worker
from mcd.machine import machine
from mcd.objective.base import Clock
from mcd.objective.mcd import MCD
from mcd.process.masked import coupled_pair
from mcd.process.schedule import LogLinear
from mcd.process.timestep import sample_u, stratified_t

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--mdlm", type=Path, required=True, help="folder of the clone")
parser.add_argument("--json", type=Path, help="file for the rows")
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--only", default="", help="only rows whose name begins so")
parser.add_argument("--small", action="store_true", help="a network of a few weights, to try the script itself")
args = parser.parse_args()

NAMES = (
    ("head.norm.", "output_layer.norm_final."),
    ("head.", "output_layer."),
    ("embedding", "vocab_embed.embedding"),
    ("time.", "sigma_map."),
    ("attention.qkv", "attn_qkv"),
    ("attention.out", "attn_out"),
    ("adaLN", "adaLN_modulation"),
)


class Anything(types.ModuleType):
    """A module whose every attribute is a module class or again such a module."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return (
            torch.nn.Module if name[0].isupper() else sys.modules.setdefault(f"{self.__name__}.{name}", Anything(name))
        )


class Split(tuple):
    """q, k and v in place of one tensor of all three, so that nothing is copied."""

    device = torch.device("cpu")


def rearrange(x: Any, pattern: str, **sizes: int) -> Any:
    """The three patterns of MDLM's block; what is split already is passed on."""
    if isinstance(x, Split):
        return x
    if pattern == "b s (three h d) -> b s three h d":
        return x.view(*x.shape[:2], 3, sizes["h"], -1)
    assert pattern == "(b s) h d -> b s (h d)", pattern
    return x.reshape(sizes["b"], -1, x.shape[-2] * x.shape[-1])


def apply_rotary_emb_qkv_(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Split:
    """q and k turned, v as it is, each (B, L, H, D/H); cos, sin (L, D/2H)."""
    cos, sin = (torch.cat((table, table), -1)[:, None] for table in (cos, sin))
    q, k, v = qkv.unbind(2)

    def turned(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat((-second, first), -1) * sin

    return Split((turned(q), turned(k), v))


def flash_attn_varlen_qkvpacked_func(qkv: Any, cu_seqlens: Any, length: int, dropout: float, causal: bool) -> Any:
    """Bidirectional attention of rows of equal length, ((B L), H, D/H)."""
    q, k, v = (x.transpose(1, 2) for x in qkv)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)


def public_modules(clone: Path) -> tuple[Any, Any, Any, Any]:
    """MDLM's modules diffusion, models.dit, models.ema and noise_schedule."""
    if not (clone / "diffusion.py").is_file():
        parser.error(f"--mdlm {clone}: is no clone of MDLM")
    for name in "lightning hydra hydra.utils omegaconf torchmetrics torchmetrics.aggregation transformers".split():
        sys.modules[name] = Anything(name)
    for name in "huggingface_hub dataloader utils models.dimamba models.autoregressive flash_attn.layers".split():
        sys.modules[name] = Anything(name)
    sys.modules["huggingface_hub"].PyTorchModelHubMixin = object  # type: ignore[attr-defined]
    sys.modules["einops"] = types.ModuleType("einops")
    sys.modules["einops"].rearrange = rearrange  # type: ignore[attr-defined]
    rotary, flash = types.ModuleType("flash_attn.layers.rotary"), types.ModuleType("flash_attn")
    rotary.apply_rotary_emb_qkv_ = apply_rotary_emb_qkv_  # type: ignore[attr-defined]
    sys.modules["flash_attn.layers"].rotary = rotary  # type: ignore[attr-defined]
    flash.layers = sys.modules["flash_attn.layers"]  # type: ignore[attr-defined]
    flash.flash_attn_interface = types.SimpleNamespace(  # type: ignore[attr-defined]
        flash_attn_varlen_qkvpacked_func=flash_attn_varlen_qkvpacked_func
    )
    sys.modules |= {"flash_attn": flash, "flash_attn.layers.rotary": rotary}
    sys.path.insert(0, str(clone))
    import diffusion  # pyright: ignore[reportMissingImports]
    import models.dit  # pyright: ignore[reportMissingImports]
    import models.ema  # pyright: ignore[reportMissingImports]
    import noise_schedule  # pyright: ignore[reportMissingImports]

    return diffusion, models.dit, models.ema, noise_schedule


class Public(Peers):
    """MDLM's code around our weights, asked for the same as the twin."""

    def build(self, size: Size, batch: int, method: str | None, options: dict[str, Any]) -> int:
        warnings.simplefilter("ignore")
        self.modules, self.size, self.batch = public_modules(args.mdlm), size, batch
        self.schedule, self.mask_id = LogLinear(), size.rows - 1
        self.student = self._diffusion(seed=0)
        self.weights = list(self.student.backbone.parameters())
        if method is None:
            self.student.backbone.eval().requires_grad_(False)
        else:
            self.teacher = self._diffusion(seed=1)
            self.teacher.backbone.eval().requires_grad_(False)
            self.student.backbone.train()
            self.optimizer = torch.optim.AdamW(self.weights, lr=LR, betas=BETAS, eps=1e-8, weight_decay=0)
            self.ema = self.modules[2].ExponentialMovingAverage(self.weights, decay=EMA_DECAY)
        return sum(p.numel() for p in self.weights)

    def parameters(self) -> list[torch.nn.Parameter]:
        return self.weights

    def _diffusion(self, seed: int) -> Any:
        """A `Diffusion` with what its forward and `_sample` read, and a backbone of our weights of a seed."""
        diffusion, dit, _, noise = self.modules
        size, space = self.size, types.SimpleNamespace
        model = {"hidden_size": size.hidden, "n_heads": size.heads, "n_blocks": size.layers, "cond_dim": size.cond_dim}
        model |= {"dropout": size.dropout, "scale_by_sigma": True, "length": size.length}
        whole = diffusion.Diffusion.__new__(diffusion.Diffusion)
        torch.nn.Module.__init__(whole)
        whole.config = space(
            model=space(**model),
            loader=space(eval_batch_size=self.batch),
            sampling=space(steps=8, noise_removal=True),
            noise=space(type="loglinear"),
        )
        whole.mask_index, whole.neg_infinity, whole.vocab_size = size.rows - 1, -1000000.0, size.rows
        whole.parameterization, whole.sampler, whole.time_conditioning = "subs", "ddpm_cache", False
        whole.device, whole.noise = torch.device("cpu"), noise.LogLinearNoise()
        whole.backbone = dit.DIT(whole.config, vocab_size=size.rows)
        weights = {}
        for name, p in random_denoiser(size, seed).backbone.named_parameters():
            for ours, theirs in NAMES:
                if ours in name:
                    name = name.replace(ours, theirs)
                    if ours == "embedding":
                        break
            weights[name] = p
        buffers = {name for name, _ in whole.backbone.named_buffers()}
        missing, unexpected = whole.backbone.load_state_dict(weights, strict=False)
        assert set(missing) == buffers and not unexpected, (missing, unexpected)
        return whole

    def step(self, seed: int) -> dict[str, float]:
        x0, generator = random_rows(self.size, self.batch, seed), torch.Generator().manual_seed(seed)
        objective, clock, (B, L) = MCD(), Clock(), x0.shape
        delta, tau = objective.delta(clock.round), objective.tau(clock.round)
        started = time.perf_counter()
        t = stratified_t(B, delta, 1.0, generator)
        pair = coupled_pair(x0, sample_u(B, L, generator), t, t - delta, self.schedule, self.student.mask_index)
        sigma = torch.zeros(B, 1)
        log_p = self.student.forward(pair.z_t, sigma)
        with torch.no_grad():
            tempered = self.teacher.backbone(pair.z_s, sigma.squeeze(-1)) / tau
            log_q = self.teacher._subs_parameterization(logits=tempered, xt=pair.z_s)
        kl = (log_p.exp() * (log_p - log_q)).sum(-1)
        ce = -torch.gather(log_p, -1, x0[:, :, None]).squeeze(-1)
        loss = (kl * pair.masked_s).sum() / (B * L) + (ce * pair.revealed).sum() / (B * L)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.weights)
        return {"seconds": time.perf_counter() - started, "loss": loss.item()}

    def sample(self, steps: int, seed: int, first: int | None = None) -> Sampled:
        torch.manual_seed(seed)
        forward = type(self.student).forward
        self.student.forward = lambda z, sigma: forward(self.student, z, sigma).to(torch.float64)
        started = time.perf_counter()
        z = self.student._sample(num_steps=steps, eps=1e-5)
        seconds = time.perf_counter() - started
        assert z.shape == (self.batch, self.size.length) and (z != self.student.mask_index).all()
        return {"seconds": [seconds], "calls": [], "nfe": 0.0}


def compared(name: str, twin: list[float], public: list[float], **more: float) -> dict[str, Any]:
    """A row, printed: medians of both, and how the twin compares."""
    twin_s, public_s = statistics.median(twin), statistics.median(public)
    row = {"name": name, "twin_s": twin_s, "public_s": public_s, "twin_over_public": twin_s / public_s, **more}
    row |= {"twin_all_s": twin, "public_all_s": public}
    extra = " ".join(f"{key} {value:.7g}" for key, value in more.items())
    print(f"{name:28} twin {twin_s:.3f} s, public {public_s:.3f} s, ratio {twin_s / public_s:.3f} {extra}", flush=True)
    return row


def main() -> None:
    """Both networks of a shape in turn, each in a process of its own with PyTorch's own allocator settings."""
    size = Size(rows=300, length=32, hidden=32, layers=2, heads=2, cond_dim=8) if args.small else SMALL
    rows = []
    for dropout in (0.0, 0.1):
        name = f"step_mcd_b2_l{size.length}_dropout{dropout}"
        if name.startswith(args.only):
            with both() as ask:
                ask("build", size=replace(size, dropout=dropout), batch=2, method="mcd", options={})
                losses = [answer["loss"] for answer in ask("step", seed=0)]
                answers = [ask("step", seed=seed) for seed in range(1, args.repeats + 1)]
                memory = [answer["above"] for answer in ask("memory", seed=0)]
            more = dict(zip(("twin_loss", "public_loss", "twin_bytes", "public_bytes"), losses + memory, strict=True))
            seconds = ([step["seconds"] for step in side] for side in zip(*answers, strict=True))
            rows.append(compared(name, *seconds, **more))
    for batch, steps in ((1, 8), (1, 16)):
        name = f"sample_l{size.length}_b{batch}_steps{steps}"
        if name.startswith(args.only):
            with both() as ask:
                ask("build", size=size, batch=batch, method=None, options={})
                ask("sample", steps=2, seed=0)
                answers = [ask("sample", steps=steps, seed=seed) for seed in range(args.repeats)]
            seconds = ([sum(run["seconds"]) for run in side] for side in zip(*answers, strict=True))
            rows.append(compared(name, *seconds))
    if args.json:
        command = " ".join(["python", "benchmarks/public_code.py", *sys.argv[1:]])
        args.json.write_text(json.dumps({"command": command, "machine": machine(), "rows": rows}, indent=2) + "\n")


@contextmanager
def both() -> Iterator[Callable[..., list[Any]]]:
    """A function that asks the twin and then the public code, and returns both answers."""
    with Worker("peers", False) as twin, Worker("public", False, "__main__:Public") as public:
        yield lambda request, **options: [side.ask(request, **options) for side in (twin, public)]


if __name__ == "__main__":
    main()
