"""A scorer is whole and causal, or it is refused: random weights and networks that look ahead score and say nothing."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from mcd.errors import MissingScorer
from mcd.eval.scorer import load_scorer

WORDS = ["<eos>", *"abcdefghi"]
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture
def saved(tmp_path):
    """Saves a network with a tokenizer of ten words; returns the folder."""

    def save(model):
        model.save_pretrained(tmp_path)
        backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>").save_pretrained(tmp_path)
        return str(tmp_path)

    torch.manual_seed(0)
    return save


def llama(**changes):
    return LlamaForCausalLM(LlamaConfig(**SIZES | {"tie_word_embeddings": False} | changes))


def test_a_network_that_sees_the_last_token_is_refused(saved):
    folder = saved(BertForMaskedLM(BertConfig(**SIZES)))
    with pytest.raises(MissingScorer, match=r"(?s)--scorer .*is no causal language model.*tokens behind it"):
        load_scorer(folder)
    saved(BertForMaskedLM(BertConfig(**SIZES, is_decoder=True)))  # the same network, which then does not look ahead
    assert load_scorer(folder).nll(["a b c"])[0].tokens == 2


def test_a_head_that_is_not_stored_is_refused_not_random(saved, capfd):
    folder = saved(llama().model)
    capfd.readouterr()
    with pytest.raises(MissingScorer, match=r"holds no weights for lm_head\.weight, which would be random"):
        load_scorer(folder)
    assert capfd.readouterr() == ("", "")
    saved(llama(tie_word_embeddings=True).model)  # tied, the embedding is the head: nothing is missing
    assert load_scorer(folder).nll(["a b c"]) == load_scorer(folder).nll(["a b c"])


def test_weights_of_another_shape_are_refused(saved):
    folder = saved(llama())
    LlamaConfig(**SIZES | {"hidden_size": 16}).save_pretrained(folder)
    with pytest.raises(MissingScorer, match="--scorer"):
        load_scorer(folder)


def test_weights_that_the_network_does_not_use_are_told(saved, capfd):
    folder = saved(llama(num_hidden_layers=2))
    LlamaConfig(**SIZES | {"tie_word_embeddings": False}).save_pretrained(folder)
    load_scorer(folder)
    assert "9 of its weights are not used, such as model.layers.1." in capfd.readouterr().err


def test_every_causal_family_passes_the_check(saved):
    folder = saved(GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=len(WORDS))))
    assert load_scorer(folder).end_id == 0


def test_a_folder_that_does_not_exist_is_named():
    with pytest.raises(MissingScorer, match="--scorer /nowhere/scorer: no such folder"):
        load_scorer("/nowhere/scorer")


def test_a_scorer_that_is_neither_here_nor_on_the_hub_needs_no_installation(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingScorer) as refusal:
        load_scorer("nowhere")
    said = str(refusal.value)
    assert said.startswith("--scorer nowhere: no such folder, and HF_HUB_OFFLINE is set")
    assert "give its folder" in said and "pip install" not in said and "\n" not in said
