"""Shared fixtures. Annotations are checked at run time: the hook must come before the first import of mcd's packages.

`mcd.cli` is left out: tyro fills its dataclasses with placeholders (`tyro.MISSING`) that no annotation allows.
"""

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PACKAGES = "process model checkpoints data objective sampler training eval api serve play".split()
install_import_hook([f"mcd.{name}" for name in PACKAGES], "beartype.beartype")
settings.register_profile("all", deadline=None, derandomize=True)
settings.register_profile("quick", settings.get_profile("all"), max_examples=25)


def pytest_configure(config: pytest.Config) -> None:
    """`make test` and `make test-fast`, which leave out what is slow, try fewer examples of each property."""
    settings.load_profile("quick" if config.option.markexpr.startswith("not slow") else "all")


from mcd.checkpoints.folder import save_pretrained  # noqa: E402
from mcd.data.prepare.pipeline import prepare  # noqa: E402
from mcd.data.recipe import Recipe  # noqa: E402
from mcd.model.denoiser import Denoiser, DenoiserConfig, Process  # noqa: E402
from mcd.model.dit import DiTConfig  # noqa: E402
from mcd.model.prior import prior  # noqa: E402
from mcd.process.draws import Draws  # noqa: E402
from mcd.process.schedule import LogLinear, Schedule  # noqa: E402

torch.set_num_threads(1)

WORDS = (
    "the of and to in that we our nation people government shall be with for union peace law states congress year "
    "great power war public upon country citizens duty labor free world must will have been from their which interests"
).split()


@pytest.fixture(scope="session")
def noisy() -> Callable[..., Denoiser]:
    """Fills every parameter with noise: heads and gates that start at zero would hide faults.

    Predictions are then far from uniform and from certain, and change with what is visible.
    """

    def fill(model: Denoiser, seed: int = 0, scale: float = 1.0) -> Denoiser:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in model.named_parameters():
                noise = torch.randn(p.shape, generator=generator)
                if name.endswith(("norm1.weight", "norm2.weight", "norm.weight")):
                    p.copy_(1.0 + 0.3 * noise)
                elif p.ndim == 2 and not name.endswith("embedding"):
                    p.copy_(scale * noise / p.shape[1] ** 0.5)
                else:
                    p.copy_(noise if p.ndim == 2 else 0.3 * noise)
        return model

    return fill


@pytest.fixture(scope="session")
def tiny_denoiser(noisy: Callable[..., Denoiser]) -> Callable[..., Denoiser]:
    """Builds a small denoiser of V real tokens (and a mask or start of text), every weight noise, evaluating."""

    def build(
        V: int = 23,
        length: int = 16,
        hidden: int = 16,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.0,
        schedule: Schedule | None = None,
        time_conditioned: bool = False,
        process: Process = "masked",
        seed: int = 0,
        scale: float = 1.0,
    ) -> Denoiser:
        rows, causal = V + (process != "uniform"), process == "autoregressive"
        backbone = DiTConfig(rows, hidden, layers, heads, length, cond_dim=8, dropout=dropout, causal=causal)
        mask_id = None if process == "uniform" else V
        config = DenoiserConfig(backbone, mask_id, schedule or LogLinear(), time_conditioned)
        model = noisy(Denoiser(config), seed, scale).eval()
        if process == "locked":
            model.add_locked(("draft", "when"), prior(model, length))
            with torch.no_grad():
                for p in model.locked.parameters():
                    p.copy_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))
        return model

    return build


@pytest.fixture
def seeded() -> Callable[[int], torch.Generator]:
    """A CPU generator of a seed."""
    return lambda seed: torch.Generator().manual_seed(seed)


@pytest.fixture
def draws_of() -> Callable[..., Draws]:
    """The randomness of all rows of x0, of a seed."""
    return lambda x0, seed=0, **options: Draws(torch.Generator().manual_seed(seed), *x0.shape, **options)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 documents of about 60 words, parted by blank lines."""
    rng = random.Random(0)
    documents = [" ".join(rng.choices(WORDS, k=60)).capitalize() + "." for _ in range(64)]
    path = tmp_path_factory.mktemp("text") / "tiny.txt"
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_data(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder: vocabulary 300, rows of 16, one document in 8 held out."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    prepare(Recipe(data=str(text_file), vocab_size=300, length=16, valid_every=8), folder)
    return folder


@pytest.fixture(scope="session")
def ours(tiny_denoiser: Callable[..., Denoiser], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a diffusion transformer of ours, with random weights and a tokenizer of 2,048 tokens."""
    folder = tmp_path_factory.mktemp("ours")
    tokenizer = Path(__file__).with_name("data") / "bpe_2048.json"
    save_pretrained(tiny_denoiser(V=2048), folder, tokenizer.read_text(encoding="utf-8"))
    return folder


class SentOnly(TorchDispatchMode):
    """Refuses what comes from the CPU to the meta device and is not sent by `mcd.process.transfer.send`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        of_cpu = [a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor) and not a.is_meta and a.ndim]
        if of_cpu and isinstance(out, torch.Tensor) and out.is_meta and not self.sends():
            raise AssertionError(f"{func} takes a tensor from the CPU, which is not sent")
        return out

    @staticmethod
    def sends() -> bool:
        """Whether `send` is at work."""
        frame = sys._getframe()
        while frame is not None and frame.f_code.co_name != "send":
            frame = frame.f_back
        return frame is not None


@pytest.fixture
def no_numbers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Within it, models on PyTorch's meta device compute shapes, and whatever would wait for a GPU raises.

    `.item()`, `.tolist()`, `nonzero`, a condition and an index of bools raise there by themselves, since the answer
    depends on numbers, which a tensor on that device does not have.
    """

    @contextlib.contextmanager
    def within() -> Iterator[None]:
        with monkeypatch.context() as patched, SentOnly():
            patched.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())  # unknown there
            patched.setattr(torch, "is_autocast_enabled", lambda *args: False)
            yield

    return within
