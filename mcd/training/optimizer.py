"""Optimisers, and the learning rate as a function of progress."""

import torch

from mcd.model.denoiser import Denoiser
from mcd.training.config import TrainConfig


def make_optimizers(model: Denoiser, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimisers of what is trained in a model.

    adamw: AdamW on everything (fused), the published choice. muon: torch.optim.Muon on the matrices inside the blocks
    (learning rate matched to AdamW's by its root mean square), AdamW on the rest. Muon's iteration runs in bfloat16:
    quick on GPUs and on CPUs with bfloat16 units, very slow on CPUs without.
    """
    matrices = []
    if config.optimizer == "muon":
        inside = [named for block in model.shardable_layers() for named in block.named_parameters()]
        matrices = [p for name, p in inside if p.ndim == 2 and p.requires_grad and "adaLN" not in name]
    taken = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    optimizers: list[torch.optim.Optimizer] = []
    lr, decay = config.lr, config.weight_decay
    if matrices:
        optimizers += [torch.optim.Muon(matrices, lr, decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")]
    if rest:
        optimizers += [torch.optim.AdamW(rest, lr, config.betas, eps=1e-8, weight_decay=decay, fused=True)]
    return optimizers


def lr_factor(step: int, progress: float, warmup_steps: int, decay: float) -> float:
    """Linear warm-up over `warmup_steps`, then constant, then linear to zero over the last `decay` of the run."""
    factor = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if decay > 0.0 and progress > 1.0 - decay:
        factor *= max(0.0, (1.0 - progress) / decay)
    return factor
