"""How the processes of a run find each other, and how FSDP2 shards a model over them, by Lightning Fabric."""

import logging
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import nn

from mcd.errors import MissingCompiler, UsageError
from mcd.training.config import TrainConfig
from mcd.training.ranks import PATIENCE


def join(config: TrainConfig) -> Fabric:
    """The Fabric of this process, connected to those of the other processes of its torchrun job.

    Raises UsageError when the rows of a step cannot be shared equally, and for FSDP2 without torchrun; MissingCompiler
    when `compile` is asked for and this machine cannot.
    """
    world, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if config.batch_size % (world * config.accumulate):
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
        precision=config.precision,
        plugins=[TorchElasticEnvironment() if elastic else LightningEnvironment()],  # whatever else Slurm has set
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


def check_compiler() -> None:
    """Raise MissingCompiler when there is no C++ compiler, or no Python.h, for the kernels that torch.compile writes
    for CPUs. PyTorch itself would say so only in the first step, in a page of traceback.
    """
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        lacks, package = f"a C++ compiler, and {compiler} is not found", "g++"
    elif not Path(sysconfig.get_path("include"), "Python.h").is_file():
        lacks, package = "Python.h, the headers of Python", "python3-dev"
    else:
        return
    raise MissingCompiler(
        f"--compile: needs {lacks}; install it (on Debian and Ubuntu: apt install {package}) or give --no-compile"
    )
