"""A vocabulary of as many rows as tokens, none of them to spare: a row is added for the mask, to every table."""

import pytest
import torch
from tokenizers import Tokenizer

from mcd.checkpoints.autoregressive import adapted, open_autoregressive
from mcd.checkpoints.folder import from_pretrained, save_pretrained
from mcd.data.tokenizer import tokenizer_of_model
from mcd.errors import ModelError
from mcd.model.lora import LoRA

K, L, T = 41, 16, torch.ones(2)


@pytest.fixture(params=["llama", "qwen2", "gpt2"])  # tied; a head of its own; Conv1D and learnt positions
def full(request, full_vocabulary, tmp_path):
    """The folder and the network of a family whose tokenizer has all K tokens and no spare one."""
    return full_vocabulary(request.param, tmp_path / "base")


@pytest.fixture
def made(full):
    return adapted(open_autoregressive(str(full.folder)))


def test_both_tables_and_the_tokenizer_grow_by_one(full, made):
    assert made.mask[:3] == ("<|mask|>", K, True)
    assert made.tokenizer.get_vocab_size() == K + 1 and made.tokenizer.id_to_token(K) == "<|mask|>"
    config = made.model.config
    assert config.backbone.rows == config.backbone.tokens == config.backbone.settings["vocab_size"] == K + 1
    assert (config.mask_id, config.forbidden) == (K, (K,))
    table, (weight, bias) = made.model.backbone.table(), made.model.backbone.projection()
    assert len(table) == len(weight) == len(bias) == K + 1
    theirs = full.network.get_input_embeddings().weight
    torch.testing.assert_close(table[K], theirs.mean(0))
    head = full.network.get_output_embeddings().weight
    torch.testing.assert_close(weight[K], head.mean(0))
    assert torch.equal(table[:K], theirs) and torch.equal(weight[:K], head)
    assert (weight is table) == (full.kind != "qwen2")


def test_the_network_says_what_it_said_of_rows_without_a_mask(full, made, seeded):
    x0 = torch.randint(4, K, (2, L), generator=seeded(0))
    with torch.no_grad(), made.model.backbone.causally():
        found = made.model.logits(made.model.hidden(x0, T)).view(2, L, K + 1)
        expected = full.network(input_ids=torch.cat((torch.zeros(2, 1, dtype=torch.int64), x0), 1)).logits[:, :-1]
    torch.testing.assert_close(found[..., :K], expected, atol=1e-5, rtol=1e-5)
    assert (found[..., K] < -1e4).all()


@pytest.mark.parametrize("rank", [0, 2])
def test_it_is_saved_and_read_again(made, tmp_path, rank, seeded):
    from transformers import AutoModelForCausalLM

    made.model.add_lora(LoRA(lora_rank=rank))
    save_pretrained(made.model, tmp_path / "saved", made.tokenizer.to_str())
    again = from_pretrained(str(tmp_path / "saved"))
    z = torch.full((2, L), K)
    with torch.no_grad():
        torch.testing.assert_close(again.hidden(z, T), made.model.hidden(z, T))
    tokenizer_of_model(tmp_path / "saved", again.config.tokens)
    if not rank:
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
        assert len(theirs.get_input_embeddings().weight) == len(theirs.get_output_embeddings().weight) == K + 1


def test_spare_rows_are_used_before_one_is_added(full_vocabulary, tmp_path):
    full = full_vocabulary("gpt2", tmp_path / "base", tokens=K - 2)
    made = adapted(open_autoregressive(str(full.folder)))
    assert made.mask[:3] == ("<|mask|>", K - 2, True)
    assert made.model.config.backbone.rows == K and made.model.config.forbidden == (K - 2, K - 1)


def test_a_name_that_the_tokenizer_lacks_is_added(causal):
    made = adapted(open_autoregressive(str(causal.folder)), "<hole>")
    assert made.mask[:3] == ("<hole>", 39, True) and made.model.config.forbidden == (39, 40)
    with pytest.raises(ModelError, match=r"--mask-token <.end.>: is in use"):
        adapted(open_autoregressive(str(causal.folder)), "<|end|>")


def test_without_a_start_of_text_it_is_refused(causal):
    tokenizer = Tokenizer.from_file(str(causal.folder / "tokenizer.json"))
    source = open_autoregressive(str(causal.folder))
    source.tokenizer, source.notes = tokenizer, []
    source.settings = source.settings | {"bos_token_id": None, "eos_token_id": None}
    with pytest.raises(ModelError, match="a start of text is needed"):
        adapted(source)
