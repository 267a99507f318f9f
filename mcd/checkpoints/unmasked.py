"""The start of a uniform teacher: a masked model without its mask."""

import json
from dataclasses import replace

from tokenizers import Tokenizer

from mcd.checkpoints.loading import unfilled_model
from mcd.model.adapted.config import AdaptedConfig
from mcd.model.denoiser import Denoiser


def without_mask(model: Denoiser) -> Denoiser:
    """A model of uniform diffusion with the weights of a masked one, but for the row of the mask.

    Uniform diffusion noises with tokens, each of which is a row. Raises ValueError for a model whose mask is not the
    last row, that forbids other ids, or that is shown locked noise.
    """
    config, network = model.config, model.config.backbone
    if config.process != "masked":
        raise ValueError(f"is {config.process}, not masked")
    rows = network.rows - 1
    if config.mask_id != rows or any(i < rows for i in config.forbidden):
        raise ValueError(f"its mask (id {config.mask_id}) is not the last of its {rows + 1} ids, or it forbids others")
    if isinstance(network, AdaptedConfig):
        settings = network.settings | {network.family.rows: rows, "mask_token_id": None}
        smaller = replace(network, settings=settings, forbidden=(), tokens=rows)
    else:
        smaller = replace(network, rows=rows)
    uniform = unfilled_model(replace(config, backbone=smaller, mask_id=None))
    has = {name: value.shape for name, value in uniform.state_dict().items()}
    found = model.state_dict()
    uniform.load_state_dict({name: found[name][: shape[0]] if shape else found[name] for name, shape in has.items()})
    return uniform.eval()


def tokenizer_without(tokenizer: Tokenizer, mask_id: int) -> Tokenizer:
    """The tokenizer without the special token `mask_id`, if it has it. Raises ValueError where that is not the last."""
    if tokenizer.id_to_token(mask_id) is None:
        return tokenizer
    content = json.loads(tokenizer.to_str())
    kept = [token for token in content["added_tokens"] if token["id"] != mask_id]
    if len(kept) == len(content["added_tokens"]) or tokenizer.get_vocab_size() != mask_id + 1:
        raise ValueError(f"its mask (id {mask_id}) is not the last special token of its tokenizer")
    content["added_tokens"] = kept
    return Tokenizer.from_str(json.dumps(content))
