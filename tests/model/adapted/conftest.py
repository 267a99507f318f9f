"""Folders of Hugging Face with tiny random networks, and the networks as `transformers` runs them."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

K, SPECIAL = 41, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]")
MASK, FORBIDDEN = 4, (0, 4, 5, 39, 40)
"""Of all families here: the tokenizer has 39 tokens, and 41 rows the network."""
SMALL: dict[str, Any] = {
    "vocab_size": K,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "pad_token_id": 0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": SMALL | {"max_position_embeddings": 24},
    "roberta": SMALL | {"max_position_embeddings": 25, "type_vocab_size": 1},
    "camembert": SMALL | {"max_position_embeddings": 25, "type_vocab_size": 1},
    "xlm-roberta": SMALL | {"max_position_embeddings": 25, "type_vocab_size": 1},
    "modernbert": SMALL | {"max_position_embeddings": 24, "local_attention": 8, "global_attn_every_n_layers": 2},
    "distilbert": {
        "vocab_size": K,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 32,
        "max_position_embeddings": 24,
        "pad_token_id": 0,
    },
    "electra": SMALL | {"max_position_embeddings": 24, "embedding_size": 12},
    "llada": SMALL | {"max_position_embeddings": 24, "num_key_value_heads": 1, "rope_theta": 500_000.0},
    "dream": SMALL | {"max_position_embeddings": 24, "num_key_value_heads": 1, "rope_theta": 1e6},
}
CAUSAL: dict[str, dict[str, Any]] = {
    "llama": SMALL
    | {
        "max_position_embeddings": 24,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 12,
        },
    },
    "qwen2": SMALL | {"max_position_embeddings": 24, "num_key_value_heads": 1, "tie_word_embeddings": False},
    "qwen3": SMALL
    | {"max_position_embeddings": 24, "num_key_value_heads": 1, "head_dim": 12, "tie_word_embeddings": True},
    "gpt2": {
        "vocab_size": K,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 24,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
}
"""Autoregressive networks: Llama 3's rotary scaling, Qwen2's biases and a head of its own, Qwen3's width of a head."""
BEGIN, END, SPARE = 0, 1, 4
"""Of their tokenizer: BOS, EOS, and the token that nothing uses."""
LLADA_NAMES = {
    "model.embed_tokens": "model.transformer.wte",
    "model.norm": "model.transformer.ln_f",
    "lm_head": "model.transformer.ff_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}


def causal_network(kind: str, settings: dict[str, Any]) -> nn.Module:
    config = {"llada": transformers.LlamaConfig, "dream": transformers.Qwen2Config}[kind]
    network = {"llada": transformers.LlamaForCausalLM, "dream": transformers.Qwen2ForCausalLM}[kind]
    return network(config(tie_word_embeddings=False, **settings))


def network_of(kind: str, **settings: Any) -> nn.Module:
    """A tiny network of `transformers` itself, its weights random everywhere, also where they start at 0 or 1."""
    torch.manual_seed(0)
    if kind in ("llada", "dream"):
        network = causal_network(kind, CONFIGS[kind])
    else:
        config = transformers.AutoConfig.for_model(kind, **CONFIGS[kind] | settings)
        network = transformers.AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    return network.eval()


def published_settings(kind: str, network: nn.Module) -> dict[str, Any]:
    """The config.json of a family, as its authors write it."""
    if kind == "llada":
        return {
            "model_type": "llada",
            "architectures": ["LLaDAModelLM"],
            "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
            "d_model": 16,
            "n_layers": 2,
            "n_heads": 2,
            "n_kv_heads": 1,
            "mlp_hidden_size": 32,
            "mlp_ratio": 4,
            "vocab_size": K,
            "embedding_size": K,
            "max_sequence_length": 24,
            "rms_norm_eps": network.config.rms_norm_eps,  # type: ignore[union-attr]
            "rope_theta": 500_000.0,
            "weight_tying": False,
            "block_type": "llama",
            "layer_norm_type": "rms",
            "activation_type": "silu",
            "include_bias": False,
            "include_qkv_bias": False,
            "multi_query_attention": None,
            "alibi": False,
            "rope": True,
            "mask_token_id": MASK,
            "pad_token_id": 3,
            "eos_token_id": 3,
            "torch_dtype": "bfloat16",
        }
    settings = json.loads(network.config.to_json_string(use_diff=False))  # type: ignore[union-attr,operator]
    if kind == "dream":
        own = {"model_type": "Dream", "architectures": ["DreamModel"], "mask_token_id": MASK, "rope_theta": 1e6}
        return {key: value for key, value in settings.items() if key != "rope_parameters"} | own
    return settings


def write_tokenizer(folder: Path) -> None:
    tokens = [*SPECIAL, *(f"w{i}" for i in range(K - 2 - len(SPECIAL)))]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"mask_token": {"content": "[MASK]"}, "pad_token": "[PAD]", "sep_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def stored_tensors(kind: str, network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a family's file, under its authors' names."""
    tied = {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }
    tensors = {tied.get(name, name): p.detach().clone() for name, p in network.named_parameters()}
    if kind != "llada":
        return tensors
    renamed = {}
    for name, value in tensors.items():
        path, layer = name.removesuffix(".weight"), ""
        if path.startswith("model.layers."):
            _, _, i, path = path.split(".", 3)
            layer = f"model.transformer.blocks.{i}."
        renamed[f"{layer}{LLADA_NAMES[path]}.weight"] = value
    return renamed


def write_folder(folder: Path, kind: str) -> nn.Module:
    """A folder of Hugging Face of a family, and the network that is in it."""
    network = network_of(kind)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(published_settings(kind, network)))
    save_file(stored_tensors(kind, network), folder / "model.safetensors")
    write_tokenizer(folder)
    return network


def their_logits(kind: str, network: nn.Module, z: Tensor) -> Tensor:
    """(B, L, K): what `transformers` says of each position, by its own forward pass and a mask that hides nothing."""
    if kind not in ("llada", "dream"):
        return network(input_ids=z).logits
    everything = torch.zeros(1, 1, z.shape[1], z.shape[1], dtype=next(network.parameters()).dtype)
    logits = network(input_ids=z, attention_mask=everything.expand(len(z), -1, -1, -1), use_cache=False).logits
    return logits if kind == "llada" else torch.cat((logits[:, :1], logits[:, :-1]), dim=1)


class Published(NamedTuple):
    """A folder of Hugging Face and the network that is in it."""

    kind: str
    folder: Path
    network: nn.Module

    def logits(self, z: Tensor) -> Tensor:
        """What the library's own forward pass says, (B, L, K)."""
        return their_logits(self.kind, self.network, z)

    def stored(self) -> dict[str, Tensor]:
        """The tensors of the file."""
        return stored_tensors(self.kind, self.network)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Published]:
    """The folder of a family, made once: not to be written to."""
    made: dict[str, Published] = {}

    def build(kind: str) -> Published:
        if kind not in made:
            folder = tmp_path_factory.mktemp("published") / kind
            made[kind] = Published(kind, folder, write_folder(folder, kind))
        return made[kind]

    return build


@pytest.fixture
def untied(tmp_path: Path) -> Callable[[str], Published]:
    """A folder of a family whose head is not tied to the embedding, as the library itself saves it."""

    def build(kind: str) -> Published:
        network: Any = network_of(kind, tie_word_embeddings=False)
        network.save_pretrained(tmp_path / kind)
        write_tokenizer(tmp_path / kind)
        return Published(kind, tmp_path / kind, network)

    return build


@pytest.fixture(params=[kind for kind in CONFIGS if kind not in ("camembert", "xlm-roberta")])
def kind(request: pytest.FixtureRequest) -> str:
    """Each family, of those laid out alike one."""
    return request.param


@pytest.fixture
def theirs(kind: str, published: Callable[[str], Published]) -> Published:
    """The folder and the network of each family."""
    return published(kind)


@pytest.fixture
def copied(published: Callable[[str], Published], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a family's folder, to be spoilt."""

    def copy(kind: str) -> Path:
        return shutil.copytree(published(kind).folder, tmp_path / kind)

    return copy


@pytest.fixture
def z(seeded: Callable[[int], torch.Generator]) -> Tensor:
    """Rows (3, 16) of tokens that are said, half of them masked."""
    tokens = torch.randint(6, 39, (3, 16), generator=seeded(5))
    return tokens.masked_fill(torch.rand(tokens.shape, generator=seeded(6)) < 0.5, MASK)


def causal_tokenizer(rows: int = K - 2, spare: bool = True) -> Tokenizer:
    """A tokenizer of `rows` tokens, whose special ones are BOS, EOS, two of dialogues, and one that nothing uses."""
    special = ["<|begin|>", "<|end|>", "<|user|>", "<|answer|>", *(["<|reserved_0|>"] if spare else [])]
    tokens = [*special, *(f"w{i}" for i in range(rows - len(special)))]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(special)
    return tokenizer


def write_causal(folder: Path, kind: str, tokenizer: Tokenizer | None = None, **settings: Any) -> Any:
    """A folder of an autoregressive model, as the library itself saves it, and the network that is in it."""
    torch.manual_seed(0)
    ids = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": None}
    config = transformers.AutoConfig.for_model(kind, **CAUSAL[kind] | ids | settings)
    network = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    network.save_pretrained(folder)
    (tokenizer or causal_tokenizer()).save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}<|user|>{{ m.content }}<|answer|>{% endfor %}"
    names = {"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"}, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return network.eval()


@pytest.fixture(params=CAUSAL)
def causal(request: pytest.FixtureRequest, tmp_path: Path) -> Published:
    """The folder and the network of each autoregressive family."""
    return Published(request.param, tmp_path / request.param, write_causal(tmp_path / request.param, request.param))


@pytest.fixture
def full_vocabulary() -> Callable[..., Published]:
    """Writes a folder of an autoregressive family whose tokenizer has no token to spare, and by default no row."""

    def build(kind: str, folder: Path, tokens: int = K) -> Published:
        return Published(kind, folder, write_causal(folder, kind, causal_tokenizer(tokens, spare=False)))

    return build


@pytest.fixture
def causal_folder() -> Callable[[str, Path], Path]:
    """Writes a folder of an autoregressive family, and returns it."""

    def build(kind: str, folder: Path) -> Path:
        write_causal(folder, kind)
        return folder

    return build


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A file of 80 documents of words that all tokenizers here have."""
    rng = random.Random(0)
    documents = [" ".join(f"w{rng.randrange(1, 20)}" for _ in range(80)) for _ in range(80)]
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(documents) + "\n")
    return path
