"""Make tests/checkpoints/fixtures: tiny checkpoints by the public code of MDLM, SDTT and Duo, and the logits it gives.

Give it clones of the three repositories. Their own model classes, averages, Lightning modules and configurations are
imported unchanged and trained for two steps of random tokens, so that the .ckpt files are Lightning's own, with the
optimiser, an OmegaConf configuration and a tokenizer object pickled in them. Some parts are replaced: flash
attention's functions by PyTorch's scaled_dot_product_attention and by explicit rotary embeddings; the two tokenizers
that they fetch by a tiny one; the class of the hub's MDLM, which the clone does not have, by a module with the
clone's network in it. Autocast of "cuda" does nothing on a CPU, so everything is float32. Modules that the work does
not need are stubbed.

It needs PyTorch, omegaconf, hydra-core, lightning, torchmetrics, einops, fsspec and transformers; mcd does not
depend on them for this purpose.

    python benchmarks/make_fixtures.py --mdlm CLONE --sdtt CLONE --duo CLONE --out tests/checkpoints/fixtures
"""

import argparse
import importlib.abc
import importlib.machinery
import json
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name in ("mdlm", "sdtt", "duo"):
    parser.add_argument(f"--{name}", type=Path, required=True, help=f"folder of the clone of {name}")
parser.add_argument("--out", type=Path, required=True, help="folder to write")
parser.add_argument("--side", choices=("mdlm", "sdtt", "duo"), help=argparse.SUPPRESS)  # in a process of its own
args = parser.parse_args()

WORDS = 66
SIZES = {"hidden_size": 12, "n_heads": 2, "n_blocks": 2, "cond_dim": 8, "length": 16}
MISSING = "flash_attn datasets torchvision timm loguru pandas torch_fidelity mauve requests evaluate torchmetrics.image"
MISSING += " mamba_ssm causal_conv1d torchmetrics.image.fid torchmetrics.image.inception models.dimamba models.unet"
MISSING += " models.autoregressive sdtt.models.dit sdtt.data.dataloader"


class Anything(types.ModuleType):
    """A module whose every attribute is a class of no content, or again such a module."""

    __path__ = ()  # which makes it a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return torch.nn.Module if name[0].isupper() else Anything(f"{self.__name__}.{name}")

    def __call__(self, *_: Any, **__: Any) -> None:
        return None


class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of MISSING, and what is in them, before anybody else does."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if any(name == stub or name.startswith(stub + ".") for stub in MISSING.split()):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> Any:
        return Anything(spec.name)

    def exec_module(self, module: Any) -> None:
        pass


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of halves: x (B, L, H, D), cos and sin (L, D/2)."""
    cos, sin = (torch.cat((table, table), -1)[:, None] for table in (cos, sin))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def turned_packed(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`apply_rotary_emb_qkv_` of flash attention: q and k turned, (B, L, 3, H, D)."""
    q, k, v = qkv.unbind(2)
    return torch.stack((turned(q, cos, sin), turned(k, cos, sin), v), dim=2)


def attended(qkv: torch.Tensor, cu_seqlens: Any, length: int, dropout: float, causal: bool) -> torch.Tensor:
    """`flash_attn_varlen_qkvpacked_func` for rows of equal length: (B L, 3, H, D) to (B L, H, D)."""
    q, k, v = qkv.unflatten(0, (-1, length)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(0, 1)


def public(clone: Path) -> None:
    """Make the clone's modules importable, with what they miss."""
    sys.meta_path.insert(0, Stubs())
    sys.path.insert(0, str(clone / "src" if (clone / "src").is_dir() else clone))
    import flash_attn  # pyright: ignore[reportMissingImports]

    flash_attn.layers = types.SimpleNamespace(rotary=types.SimpleNamespace())
    flash_attn.layers.rotary.apply_rotary_emb_qkv_ = turned_packed
    flash_attn.layers.rotary.apply_rotary_emb_torch = turned
    flash_attn.flash_attn_interface = types.SimpleNamespace(flash_attn_varlen_qkvpacked_func=attended)
    sys.modules["flash_attn.layers"] = flash_attn.layers
    sys.modules["flash_attn.layers.rotary"] = flash_attn.layers.rotary
    import omegaconf  # pyright: ignore[reportMissingImports]

    for name, resolve in {"cwd": os.getcwd, "device_count": lambda: 1, "div_up": lambda x, y: -(-x // y)}.items():
        omegaconf.OmegaConf.register_new_resolver(name, resolve)
    omegaconf.OmegaConf.register_new_resolver("eval", lambda text: 1)


def configuration(folder: Path, *overrides: str) -> Any:
    """The clone's hydra configuration, with our sizes."""
    import hydra  # pyright: ignore[reportMissingImports]

    sizes = [f"model.{name}={value}" for name, value in SIZES.items()]
    common = ["training.ema=0.5", "optim.lr=0.05", "loader.global_batch_size=4", "lr_scheduler.num_warmup_steps=1"]
    with hydra.initialize_config_dir(str(folder.resolve()), version_base=None):
        return hydra.compose("config", overrides=[*sizes, *common, *overrides])


def tiny_tokenizer() -> Any:
    """A GPT-2 tokenizer of WORDS tokens and, as the public code adds it, [PAD]."""
    import transformers  # pyright: ignore[reportMissingImports]
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # pyright: ignore[reportMissingImports]

    letters = [chr(c) for c in range(ord("A"), ord("z") + 1) if chr(c).isalpha()][: WORDS - 3]
    vocab = {token: i for i, token in enumerate([*letters, *"0123456789.!?,;:"][: WORDS - 2])}
    vocab |= {"\u0120": WORDS - 2, "<|endoftext|>": WORDS - 1}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    eos = "<|endoftext|>"
    fast = transformers.GPT2TokenizerFast(tokenizer_object=tokenizer, bos_token=eos, eos_token=eos, unk_token=eos)
    assert fast.vocab_size == WORDS, fast.vocab_size
    fast.add_special_tokens({"pad_token": "[PAD]"})
    transformers.AutoTokenizer.from_pretrained = lambda *_, **__: tiny_eval_tokenizer(tokenizer, eos)
    return fast


def tiny_eval_tokenizer(tokenizer: Any, eos: str) -> Any:
    """In place of the tokenizers the public code fetches for its measurements."""
    import transformers  # pyright: ignore[reportMissingImports]

    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token=eos)


def fill(network: torch.nn.Module, seed: int) -> None:
    """Noise for every parameter: the heads and gates that start at zero would hide faults."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in network.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name:
                p.copy_(1.0 + 0.3 * noise)
            else:
                p.copy_(noise if "embedding" in name else noise / p.shape[1] ** 0.5 if p.ndim == 2 else 0.3 * noise)


def trained(module: Any, path: Path, rows: int) -> None:
    """Two steps by Lightning's own trainer, and its own checkpoint."""
    import lightning  # pyright: ignore[reportMissingImports]

    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, rows, (8, SIZES["length"]), generator=generator)
    data = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
    type(module).on_train_start = lambda self: None  # it replaces the loader by one of more processes
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4))  # type: ignore[arg-type]
    trainer.save_checkpoint(path)


def expected(path: Path, rows: int, logits: Any, sigma: Any = None, **averaged: Any) -> None:
    """Two rows of ids with mask or noise in them, their times, and what the public network says."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, rows, (2, SIZES["length"]), generator=generator)
    ids[:, ::3] = rows - 1
    t = torch.tensor([0.3, 0.9])
    sigma = torch.zeros(2) if sigma is None else sigma(t)
    found = {"ids": ids, "t": t, "sigma": sigma}
    with torch.no_grad():
        found |= {name: call(ids, sigma).contiguous() for name, call in {"logits": logits, **averaged}.items()}
    assert all(value.dtype in (torch.float32, torch.int64) for value in found.values())
    save_file(found, path)


def average_of(module: Any) -> Any:
    """The network with the averaged weights in it, as the public code evaluates."""

    def call(ids: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        parameters = list(module.backbone.parameters())
        module.ema.store(parameters)
        module.ema.copy_to(parameters)
        logits = module.backbone(ids, sigma)
        module.ema.restore(parameters)
        return logits

    return call


def hub_folder(folder: Path, state: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    """config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({name: value.clone() for name, value in state.items()}, folder / "model.safetensors", {"format": "pt"})


def hub_config(kind: str, rows: int, **more: Any) -> dict[str, Any]:
    """config.json as on the hub."""
    lower = kind.lower()
    return {
        "architectures": [kind],
        "auto_map": {
            "AutoConfig": f"configuration_{lower}.{kind}Config",
            "AutoModelForMaskedLM": f"modeling_{lower}.{kind}",
        },
        "cond_dim": SIZES["cond_dim"],
        "dropout": 0.1,
        "hidden_dim": SIZES["hidden_size"],
        "model_length": SIZES["length"],
        "n_blocks": SIZES["n_blocks"],
        "n_heads": SIZES["n_heads"],
        "return_dict": False,
        "torch_dtype": "float32",
        "transformers_version": "4.38.2",
        "vocab_size": rows,
        **more,
    }


def make_mdlm() -> None:
    import diffusion  # pyright: ignore[reportMissingImports]

    module = diffusion.Diffusion(configuration(args.mdlm / "configs", "data.cache_dir=."), tiny_tokenizer())
    rows = module.vocab_size
    assert rows == WORDS + 1 and module.mask_index == WORDS
    fill(module.backbone, 0)
    module.ema = type(module.ema)(module.backbone.parameters(), decay=0.5)
    trained(module, args.out / "mdlm.ckpt", WORDS)
    module.backbone.eval()
    expected(args.out / "mdlm.expected.safetensors", rows, module.backbone, logits_ema=average_of(module))
    state = {f"backbone.{name}": value for name, value in module.backbone.state_dict().items()}
    hub_folder(args.out / "mdlm-hub", state, hub_config("MDLM", rows, model_type="mdlm", time_conditioning=False))


def make_duo() -> None:
    import algo  # pyright: ignore[reportMissingImports]

    module = algo.DUO_BASE(configuration(args.duo / "configs", "data.cache_dir=."), tiny_tokenizer())
    rows = module.vocab_size
    assert rows == WORDS + 1 and module.time_conditioning
    fill(module.backbone, 3)
    module.ema = type(module.ema)(module.backbone.parameters(), decay=0.5)
    trained(module, args.out / "duo.ckpt", rows)
    module.backbone.eval()
    sigma = lambda t: module._sigma_from_alphat(module.noise(t)[1])  # noqa: E731
    expected(args.out / "duo.expected.safetensors", rows, module.backbone, sigma, logits_ema=average_of(module))
    state = {f"backbone.{name}": value for name, value in module.backbone.state_dict().items()}
    hub_folder(args.out / "duo-hub", state, hub_config("DUO", rows, model_type="DUO", causal=False, var_min=True))


class HubMDLM(torch.nn.Module):
    """In place of the hub's modeling_mdlm.MDLM: a module with the network as `backbone`."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.backbone = network

    def forward(self, ids: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return self.backbone(ids, sigma)


def make_sdtt() -> None:
    """A student that began with a checkpoint of its own (backbone.), and with the hub's MDLM (backbone.backbone.).

    On the hub neither is conditioned on time; a third one, that is, is left as the training writes it. SDTT's module
    gives Lightning no hyperparameters, so that nothing in that file says what it holds.
    """
    from omegaconf import OmegaConf  # pyright: ignore[reportMissingImports]
    from sdtt.core.distill import multi_round_sdtt  # pyright: ignore[reportMissingImports]
    from sdtt.models.dit_orig import DIT  # pyright: ignore[reportMissingImports]

    config, tokenizer = configuration(args.sdtt / "src/sdtt/configs"), tiny_tokenizer()
    network = lambda: DIT(config, WORDS + 1)  # noqa: E731
    multi_round_sdtt.AutoModelForMaskedLM.from_pretrained = lambda *_, **__: HubMDLM(network())
    for name, from_hub in (("sdtt-hub", False), ("sdtt-hub-teacher", True)):
        config.parameterization.start_from_hf = from_hub
        if not from_hub:  # it then loads a checkpoint, which need not be one of the fixtures
            torch.save({"state_dict": network().state_dict()}, args.out / "start.ckpt")
            config.parameterization.checkpoint_path = str(args.out / "start.ckpt")
        else:
            config.parameterization.checkpoint_path = "kuleshov-group/mdlm-owt"
        module = multi_round_sdtt.MultiRoundSDTT(config, tokenizer, verbose=False)
        (args.out / "start.ckpt").unlink(missing_ok=True)
        fill(module.backbone, 4 + from_hub)
        config.parameterization.checkpoint_path = "kuleshov-group/mdlm-owt"
        module.backbone.eval()
        expected(args.out / f"{name}.expected.safetensors", WORDS + 1, module.backbone)
        hub_folder(args.out / name, module.state_dict(), OmegaConf.to_container(config))  # type: ignore[arg-type]

    smaller = ["model.hidden_size=8", "model.n_blocks=1", "model.cond_dim=4", "time_conditioning=true"]
    config = configuration(args.sdtt / "src/sdtt/configs", *smaller)
    module = multi_round_sdtt.MultiRoundSDTT(config, tokenizer, verbose=False)
    fill(module.backbone, 6)
    fill(module.teacher[0], 7)
    module.init_ema()
    trained(module, args.out / "sdtt.ckpt", WORDS)
    module.backbone.eval()
    sigma = lambda t: module.noise(t)[0]  # noqa: E731
    expected(args.out / "sdtt.expected.safetensors", WORDS + 1, module.backbone, sigma, logits_ema=average_of(module))


if args.side:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    public(getattr(args, args.side))
    {"mdlm": make_mdlm, "sdtt": make_sdtt, "duo": make_duo}[args.side]()
else:
    args.out.mkdir(parents=True, exist_ok=True)
    for side in ("mdlm", "sdtt", "duo"):
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--side", side], check=True)
    for path in sorted(p for p in args.out.rglob("*") if p.is_file()):
        print(f"{path.relative_to(args.out)}: {path.stat().st_size:,} bytes")
