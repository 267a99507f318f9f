"""Does a device compute what the CPU computes, and how fast are its products: what the check of a GPU begins with."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch

from mcd.bench.benchmark import Row, row
from mcd.bench.check import Check, best_of, named_device
from mcd.bench.models import CPU, random_denoiser, random_rows
from mcd.bench.sides import Ours
from mcd.objective import OBJECTIVES
from mcd.objective.base import Clock
from mcd.process.draws import Draws
from mcd.process.transfer import checks_later, send
from mcd.sampler.ancestral import Ancestral


def measure_products(check: Check) -> Row:
    """Operations per second of a large product in float32 and bfloat16, bytes per second of a copy, and the peaks."""
    clock, n = Ours(check.device), check.product
    more: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(n, n, device=check.device).to(dtype) for _ in range(2))
        name = str(dtype).removeprefix("torch.")
        more[f"{name}_flops"] = 2 * n**3 / best_of(clock, lambda a=a, b=b: a @ b)
    source = torch.ones(n * n, device=check.device)
    more["copied_bytes_per_s"] = 8 * n * n / best_of(clock, lambda: source.clone())
    known = named_device(check.device)
    more |= {"peak_of": known and known.name, "peak_flops": known and known.flops_bf16}
    if check.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(check.device)
        more |= {"device": torch.cuda.get_device_name(check.device), "memory_bytes": total, "free_bytes": free}
    more["float32_products"] = torch.get_float32_matmul_precision()  # "highest": without TF32
    return row("gpu_products", **more)


def measure_agreement(check: Check, method: str) -> Row:
    """Loss and gradient of a method on the CPU in float32, against the device in float32 and bfloat16."""
    objective, size = OBJECTIVES[method](), check.agree
    size = replace(size, process=objective.process)
    models = [random_denoiser(size, seed) for seed in (0, 1)]
    x0 = random_rows(size, 4, seed=0)
    B, L = x0.shape

    def computed(device: torch.device, half: bool) -> tuple[float, torch.Tensor]:
        student, teacher = (deepcopy(model).to(device) for model in models)
        teacher.requires_grad_(False)
        draws = Draws(torch.Generator().manual_seed(0), B, L)
        with checks_later():
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss = objective.loss(student, teacher if objective.distils else None, x0, Clock(), draws)
            loss.total.backward()
        gradients = [p.grad.flatten().cpu().double() for p in student.parameters() if p.grad is not None]
        return loss.total.item(), torch.cat(gradients)

    loss, gradient = computed(CPU, False)
    more: dict[str, Any] = {"cpu_loss": loss}
    for name, half in (("float32", False), ("bfloat16", True)):
        other, its_gradient = computed(check.device, half)
        more |= {f"{name}_loss": other, f"{name}_loss_differs_by": abs(other / loss - 1)}
        more[f"{name}_gradient_differs_by"] = float((its_gradient - gradient).norm() / gradient.norm())
    return row(f"gpu_agree_{method}", method=method, **more)


def measure_flips(check: Check) -> Row:
    """How many tokens are others than on the CPU, drawn once at the masks of rows of which half is masked."""
    model, sampler = random_denoiser(check.agree, 2).eval().requires_grad_(False), Ancestral(1)
    x0 = random_rows(check.agree, check.agree_rows, seed=3)
    generator = torch.Generator().manual_seed(4)
    masked = torch.rand(x0.shape, generator=generator) < 0.5
    v = torch.rand(x0.shape, dtype=torch.float64, generator=generator)
    z = x0.masked_fill(masked, model.mask_id)

    @torch.inference_mode()
    def drawn(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        here = deepcopy(model).to(device)
        here.dtype = dtype
        return sampler.reveal(here, send(z, device), masked, v, 0.5)[0].cpu()[masked]

    reference = drawn(CPU, torch.float32)
    more: dict[str, Any] = {"tokens": len(reference)}
    for dtype in (torch.float32, torch.bfloat16):
        flips = (drawn(check.device, dtype) != reference).double().mean().item()
        more[f"{str(dtype).removeprefix('torch.')}_flips_per_million"] = 1e6 * flips
    return row("gpu_agree_draws", **more)
