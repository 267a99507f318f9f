"""How the processes of a run find each other, and how FSDP2 shards a model over them, by Lightning Fabric."""

import logging
import os
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import nn

from mcd.train.config import TrainConfig
from mcd.train.ranks import PATIENCE


def join(config: TrainConfig) -> Fabric:
    """The Fabric of this process, connected to those of the other processes of its torchrun job.

    Raises ValueError when the rows of a step cannot be shared out equally, and for what FSDP2 does not do.
    """
    world, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if config.batch_size % (world * config.accumulate):
        raise ValueError(
            f"--batch-size {config.batch_size}: must be a multiple of {world * config.accumulate}, "
            f"{world} processes times --accumulate {config.accumulate}"
        )
    elastic = "TORCHELASTIC_RUN_ID" in os.environ
    strategy: Any = "auto"
    if config.strategy == "fsdp":
        if config.optimizer == "muon":
            raise ValueError("--optimizer muon: needs whole matrices, and --strategy fsdp shards them; take adamw")
        if not elastic:
            raise ValueError(
                "--strategy fsdp: needs processes to shard over: torchrun --nproc-per-node N -m -- mcd ..."
            )
        strategy = ModelParallelStrategy(shard, data_parallel_size=world, tensor_parallel_size=1, timeout=PATIENCE)
    elif world > 1:
        strategy = DDPStrategy(timeout=PATIENCE)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells who the processes are
    fabric = Fabric(
        accelerator="auto",
        devices=local,
        num_nodes=world // local,
        strategy=strategy,
        precision=config.precision,
        plugins=[TorchElasticEnvironment() if elastic else LightningEnvironment()],  # whatever else Slurm has set
    )
    fabric.launch()
    return fabric


def shard(module: nn.Module, mesh: Any) -> nn.Module:
    """Shard a `LossOfStudent` (FSDP2): its models' blocks are gathered when they run, the rest with the loss."""
    from torch.distributed.fsdp import fully_shard

    for model in module.children():
        for block in model.backbone.blocks:  # type: ignore[union-attr]
            fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"])
    return module
