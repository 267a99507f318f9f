"""Optimisers by name, and the learning rate as a function of progress."""

from collections.abc import Iterable

import torch
from torch import nn

from mcd.model.denoiser import Denoiser

OPTIMIZERS = ("adamw", "muon")


def make_optimizers(
    name: str, model: Denoiser, lr: float, betas: tuple[float, float], weight_decay: float
) -> list[torch.optim.Optimizer]:
    """The optimisers of a run, each with `base_lr` in its groups.

    adamw: AdamW on everything (fused), the published choice. muon: torch.optim.Muon on the matrices inside the blocks
    (learning rate matched to AdamW's by its root mean square), AdamW on the rest. Muon's iteration runs in bfloat16:
    quick on GPUs and on CPUs with bfloat16 units, very slow on CPUs without. Raises ValueError for another name.
    """
    if name == "adamw":
        trained = (p for p in model.parameters() if p.requires_grad)
        optimizers: list[torch.optim.Optimizer] = [_adamw(trained, lr, betas, weight_decay)]
    elif name == "muon":
        inside = [named for block in model.shardable_layers() for named in block.named_parameters()]
        matrices = [p for name, p in inside if p.ndim == 2 and p.requires_grad and "adaLN" not in name]
        taken = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in taken and p.requires_grad]
        muon = torch.optim.Muon(
            matrices, lr=lr, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        )
        optimizers = [muon, _adamw(rest, lr, betas, weight_decay)] if rest else [muon]
    else:
        raise ValueError(f"--optimizer {name}: known are {', '.join(OPTIMIZERS)}")
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = lr
    return optimizers


def _adamw(
    params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    return torch.optim.AdamW(params, lr=lr, betas=betas, eps=1e-8, weight_decay=weight_decay, fused=True)


def lr_factor(step: int, progress: float, warmup_steps: int, decay: float) -> float:
    """Linear warm-up over `warmup_steps`, then constant, then linear to zero over the last `decay` of the run."""
    factor = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if decay > 0.0 and progress > 1.0 - decay:
        factor *= max(0.0, (1.0 - progress) / decay)
    return factor
