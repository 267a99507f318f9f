"""Which networks of `transformers` are known, and where their parts are. Nothing here imports `transformers`.

A family is what config.json calls `model_type`. LLaDA (arXiv 2502.09992) and Dream (arXiv 2508.15487) publish code of
their own with their weights; it is not run: their networks are those of Llama and Qwen2 with full attention.
A causal family is published as an autoregressive model, and is a masked one after `mcd adapt`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Settings = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """Where the parts of a network are, as paths of modules, which are the names of their tensors too.

    config, network: classes of `transformers`. body: all but the head. layers: in the body, its blocks. transform: what
    is between the body and the vocabulary, in order, where "" is a GELU that is not a module. decoder: the projection
    onto the vocabulary; bias: the name of its bias, where it has one. rows, width, length, depth: keys of the settings:
    K, the width of the embedding, the longest sequence, and the number of layers; positions: are they learnt, so that
    it cannot grow? before: number of learnt positions before the first token's. transposed: are its layers GPT-2's
    Conv1D, whose weights are (in, out)? unread: tensors of other heads, which are dropped. shifted: does the output at
    position l - 1 predict the token at l? causal: is it published as an autoregressive model? It is shifted then, and
    reads a start of text in front of a row. names: pairs of a pattern of our tensor names and theirs, where paths do
    not tell. settings: what the class of `transformers` is given.
    """

    config: str
    network: str
    body: str
    layers: str
    decoder: str
    transform: tuple[str, ...] = ()
    bias: str | None = None
    rows: str = "vocab_size"
    width: str = "hidden_size"
    length: str = "max_position_embeddings"
    depth: str = "num_hidden_layers"
    positions: bool = False
    before: Callable[[Settings], int] = lambda settings: 0
    transposed: bool = False
    unread: str = r"(?!)"
    shifted: bool = False
    causal: bool = False
    names: tuple[tuple[str, str], ...] = ()
    settings: Callable[[Settings], Settings] = lambda settings: settings

    def stored_name(self, name: str) -> str:
        """The name in a published file of one of our tensors: body.*, transform.I.*, weight or bias."""
        for pattern, theirs in self.names:
            if match := re.fullmatch(pattern, name):
                return match.expand(theirs)
        if name == "weight":
            return f"{self.decoder}.weight"
        if name == "bias":
            return self.bias or f"{self.decoder}.bias"
        part, _, rest = name.partition(".")
        if part == "body":
            return f"{self.body}.{rest}"
        index, _, rest = rest.partition(".")
        return f"{self.transform[int(index)]}.{rest}"


def _llama_of_llada(settings: Settings) -> Settings:
    """Settings of Llama that make the network of a LLaDA. Raises ValueError for a LLaDA that is no Llama."""
    expected = {
        "block_type": "llama",
        "layer_norm_type": "rms",
        "activation_type": "silu",
        "rope": True,
        "alibi": False,
        "attention_layer_norm": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "bias_for_layer_norm": False,
        "input_emb_norm": False,
        "scale_logits": False,
        "multi_query_attention": None,
        "clip_qkv": None,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "residual_dropout": 0.0,
    }
    for key, value in expected.items():
        found = settings.get(key, value)
        if found != value and (found or value):  # false, null and 0 say the same here
            raise ValueError(f"{key} is {found!r}; of LLaDA's blocks only those of {value!r} are known")
    heads, width = settings["n_heads"], settings["d_model"]
    return {
        "vocab_size": settings["embedding_size"],
        "hidden_size": width,
        "intermediate_size": settings.get("mlp_hidden_size") or settings["mlp_ratio"] * width,
        "num_hidden_layers": settings["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": settings.get("n_kv_heads") or heads,
        "max_position_embeddings": settings["max_sequence_length"],
        "rms_norm_eps": settings["rms_norm_eps"],
        "rope_theta": settings["rope_theta"],
        "tie_word_embeddings": settings["weight_tying"],
        "is_causal": False,
        "use_cache": False,
    }


def _without(*keys: str) -> Callable[[Settings], Settings]:
    """Settings for full attention over a whole row. Raises ValueError where one of the keys asks for something else."""

    def full(settings: Settings) -> Settings:
        for key in keys:
            if settings.get(key):
                raise ValueError(f"{key} is {settings[key]!r:.60}; only a {settings['model_type']} without it is known")
        if any(kind != "full_attention" for kind in settings.get("layer_types") or ()):
            raise ValueError(f"layer_types {settings['layer_types']!r:.60}: only full_attention is known")
        return settings | {"sliding_window": None, "is_causal": False, "use_cache": False}

    return full


_LLADA = r"body\.layers\.(\d+)\."
_LLADA_NAMES = (
    (r"body\.embed_tokens\.weight", r"model.transformer.wte.weight"),
    (r"body\.norm\.weight", r"model.transformer.ln_f.weight"),
    *(
        (rf"{_LLADA}{re.escape(ours)}\.weight", rf"model.transformer.blocks.\1.{theirs}.weight")
        for ours, theirs in {
            "input_layernorm": "attn_norm",
            "post_attention_layernorm": "ff_norm",
            "self_attn.q_proj": "q_proj",
            "self_attn.k_proj": "k_proj",
            "self_attn.v_proj": "v_proj",
            "self_attn.o_proj": "attn_out",
            "mlp.gate_proj": "ff_proj",
            "mlp.up_proj": "up_proj",
            "mlp.down_proj": "ff_out",
        }.items()
    ),
)


def _decoder(config: str, network: str, *refused: str) -> Family:
    """A causal network laid out as Llama is."""
    full = _without(*refused)
    return Family(config, network, "model", "layers", "lm_head", shifted=True, causal=True, settings=full)


def _roberta(config: str, network: str) -> Family:
    return Family(
        config,
        network,
        body="roberta",
        layers="encoder.layer",
        decoder="lm_head.decoder",
        transform=("lm_head.dense", "", "lm_head.layer_norm"),
        bias="lm_head.bias",
        positions=True,
        before=lambda settings: settings["pad_token_id"] + 1,
        unread=r"roberta\.pooler\..*",
    )


FAMILIES: dict[str, Family] = {
    "bert": Family(
        "BertConfig",
        "BertForMaskedLM",
        body="bert",
        layers="encoder.layer",
        decoder="cls.predictions.decoder",
        transform=("cls.predictions.transform",),
        bias="cls.predictions.bias",
        positions=True,
        unread=r"bert\.pooler\..*|cls\.seq_relationship\..*",
    ),
    "roberta": _roberta("RobertaConfig", "RobertaForMaskedLM"),
    "camembert": _roberta("CamembertConfig", "CamembertForMaskedLM"),
    "xlm-roberta": _roberta("XLMRobertaConfig", "XLMRobertaForMaskedLM"),
    "modernbert": Family(
        "ModernBertConfig",
        "ModernBertForMaskedLM",
        body="model",
        layers="layers",
        decoder="decoder",
        transform=("head",),
    ),
    "distilbert": Family(
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        body="distilbert",
        layers="transformer.layer",
        decoder="vocab_projector",
        transform=("vocab_transform", "activation", "vocab_layer_norm"),
        width="dim",
        depth="n_layers",
        positions=True,
    ),
    "electra": Family(
        "ElectraConfig",
        "ElectraForMaskedLM",
        body="electra",
        layers="encoder.layer",
        decoder="generator_lm_head",
        transform=("generator_predictions",),
        width="embedding_size",
        positions=True,
    ),
    "llada": Family(
        "LlamaConfig",
        "LlamaForCausalLM",
        body="model",
        layers="layers",
        decoder="model.transformer.ff_out",
        rows="embedding_size",
        width="d_model",
        length="max_sequence_length",
        depth="n_layers",
        names=_LLADA_NAMES,
        settings=_llama_of_llada,
    ),
    "dream": Family(
        "Qwen2Config",
        "Qwen2ForCausalLM",
        body="model",
        layers="layers",
        decoder="lm_head",
        shifted=True,
        settings=_without("use_sliding_window", "use_mrope", "rope_scaling"),
    ),
    "llama": _decoder("LlamaConfig", "LlamaForCausalLM"),
    "qwen2": _decoder("Qwen2Config", "Qwen2ForCausalLM", "use_sliding_window", "use_mrope"),
    "qwen3": _decoder("Qwen3Config", "Qwen3ForCausalLM", "use_sliding_window"),
    "gpt2": Family(
        "GPT2Config",
        "GPT2LMHeadModel",
        body="transformer",
        layers="h",
        decoder="lm_head",
        width="n_embd",
        length="n_positions",
        depth="n_layer",
        positions=True,
        transposed=True,
        unread=r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",
        shifted=True,
        causal=True,
        settings=_without("add_cross_attention"),
    ),
}
"""Known families by the `model_type` of their config.json, in small letters."""


def family_of(settings: Settings) -> Family:
    """The family of a config.json. Raises ValueError, with the list of those known, for another."""
    name = settings.get("model_type")
    family = FAMILIES.get(name.lower()) if isinstance(name, str) else None
    if family is None:
        known = ", ".join(FAMILIES)
        raise ValueError(
            f"model_type {name!r:.60} is not known here; known are {known}; of MDLM, SDTT and Duo: mcd import"
        )
    return family
