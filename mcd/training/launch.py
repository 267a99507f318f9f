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

from mcd.errors import UsageError
from mcd.machine import check_compiler
from mcd.training.config import TrainConfig
from mcd.training.ranks import PATIENCE


def join(config: TrainConfig) -> Fabric:
    """The Fabric of this process, connected to those of the other processes of its torchrun job.

    Raises UsageError when the rows of a step cannot be shared equally, for a batch size that is to be found on a CPU,
    and for FSDP2 without torchrun; MissingCompiler when `compile` is asked for and this machine cannot.
    """
    world, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if config.batch_size != "auto" and config.batch_size % (world * config.accumulate):
        raise UsageError(
            f"--batch-size {config.batch_size}: must be a multiple of {world * config.accumulate}, "
            f"{world} processes times --accumulate {config.accumulate}"
        )
    elastic = "TORCHELASTIC_RUN_ID" in os.environ
    strategy: Any = "auto"
    if config.strategy == "fsdp":
        if not elastic:
            raise UsageError("--strategy fsdp: shards over processes; start them by torchrun -m -- mcd ...")
        strategy = ModelParallelStrategy(shard, data_parallel_size=world, tensor_parallel_size=1, timeout=PATIENCE)
    elif world > 1:
        strategy = DDPStrategy(timeout=PATIENCE)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # otherwise it lists the processes
    fabric = Fabric(
        accelerator="auto",
        devices=local,
        num_nodes=world // local,
        strategy=strategy,
        precision=config.resolved().precision,  # type: ignore[arg-type]
        plugins=[TorchElasticEnvironment() if elastic else LightningEnvironment()],  # whatever else Slurm has set
    )
    if config.batch_size == "auto" and fabric.device.type != "cuda":
        raise UsageError(
            "--batch-size auto: is for CUDA devices, where more rows cost little until the memory is full; on a CPU "
            "time grows with the rows: give a number"
        )
    if config.compile and fabric.device.type == "cpu":
        check_compiler()
    fabric.launch()
    return fabric


def shard(module: nn.Module, mesh: Any) -> nn.Module:
    """Shard a `LossOfStudent` (FSDP2): its models' blocks are gathered when they run, the rest with the loss."""
    from torch.distributed.fsdp import fully_shard

    for model in module.children():
        for block in model.backbone.shardable_layers():  # type: ignore[union-attr]
            fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"])
    return module
