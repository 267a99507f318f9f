"""`mcd.load` and what a model then does: rows, templates, states and scores, on a network with random weights."""

import math
import re
from itertools import pairwise

import pytest
import torch

import mcd
from mcd.api.results import Samples
from mcd.errors import DataError, UsageError
from mcd.sampler import DEFAULT_SAMPLER, sample
from mcd.sampler.ancestral import Ancestral

TEMPLATE = "The [MASK:4] of the United States [MASK:2] peace."


def same(a: Samples, b: Samples) -> bool:
    return torch.equal(a.ids, b.ids) and (a.texts, a.rows, a.nfe) == (b.texts, b.rows, b.nfe)


def test_rows_are_those_of_the_sampler(model):
    drawn = model.sample(3, steps=4, seed=5, order="stratified", temperature=0.8)
    ids, nfe = sample(Ancestral(4, temperature=0.8, order="stratified"), model.denoiser, 3, 16, seed=5)
    assert torch.equal(drawn.ids, ids) and drawn.nfe == nfe.tolist() and drawn.rows == [0, 1, 2]
    assert list(drawn) == drawn.texts and len(drawn) == 3
    assert same(drawn, model.sample(3, seed=5, sampler=Ancestral(4, temperature=0.8, order="stratified")))


@pytest.mark.parametrize("process", DEFAULT_SAMPLER)
def test_a_row_is_the_same_alone_and_in_company(model_of, process):
    model = model_of(process)
    how = {} if process == "autoregressive" else {"steps": 3}
    for draw in (lambda **of: model.sample(length=20, **of), lambda **of: model.infill(TEMPLATE, **of)):
        together = draw(num=5, seed=2, **how)
        alone = draw(num=1, seed=2, first_row=3, **how)
        assert torch.equal(together.ids[3], alone.ids[0]) and together.texts[3] == alone.texts[0]
        assert same(together, draw(num=5, seed=2, **how)) and len(set(together.texts)) == 5
        assert not torch.equal(together.ids, draw(num=5, seed=3, **how).ids)


def test_given_text_is_kept_to_the_byte_and_the_row_ends_with_it(model):
    given = ["  An é ☃\n\n\ttab  ", " of <|endoftext|> [MASK]", "\r\nend "]
    template = given[0] + "[MASK:3]" + given[1].replace("[MASK]", r"\[MASK]") + "[MASK]" + given[2]
    for text in model.infill(template, 4, steps=2).texts:
        kept = [part.removesuffix(" ") if i == 0 else part for i, part in enumerate(given)]  # the mask's space
        assert re.fullmatch(".*".join(map(re.escape, kept)), text, re.DOTALL)
    longer = model.infill(TEMPLATE, length=40, steps=2)
    assert longer.ids.shape == (1, 40) and longer.texts[0].startswith("The")
    assert model.infill(TEMPLATE, steps=2).texts[0].endswith(" peace.")


def test_candidates_are_ranked_by_the_bound_of_what_was_written(model):
    every = model.infill(TEMPLATE, 8, steps=2, seed=1)
    ranked = model.infill(TEMPLATE, 8, candidates=8, steps=2, seed=1)
    assert ranked.bounds == sorted(ranked.bounds) and sorted(ranked.rows) == every.rows
    for text, row, nfe in zip(ranked.texts, ranked.rows, ranked.nfe, strict=True):
        assert (text, nfe) == (every.texts[row], every.nfe[row])
    best = model.infill(TEMPLATE, 2, candidates=8, steps=2, seed=1)
    assert (best.texts, best.bounds) == (ranked.texts[:2], ranked.bounds[:2])
    fewer = model.infill(TEMPLATE, 3, candidates=3, steps=2, seed=1)  # a bound does not depend on the others
    assert (
        dict(zip(fewer.rows, fewer.bounds, strict=True)).items()
        <= dict(zip(ranked.rows, ranked.bounds, strict=True)).items()
    )


def test_states_lead_from_the_template_to_its_row(model):
    seen = list(model.stream(TEMPLATE, 2, steps=3, seed=7))
    last, drawn = seen[-1], model.infill(TEMPLATE, 2, steps=3, seed=7)
    assert [state.t for state in seen] == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0])
    assert last.texts == drawn.texts and last.nfe == drawn.nfe and torch.equal(last.ids, drawn.ids)
    assert seen[0].texts == ["The···· of the United States·· peace."] * 2
    for before, after in pairwise(seen):
        for old, new in zip(before.tokens, after.tokens, strict=True):
            assert all(a is None or a == b or "▯" in a for a, b in zip(old, new, strict=True))


def test_scores_are_of_the_text_alone_and_exact_where_they_can_be(model, model_of):
    texts = ["The people", "of the United States, and their peace", "x" * 60]
    together, alone = model.score(texts, draws=4), [model.score(text, draws=4)[0] for text in texts]
    assert together == alone and not together[0].exact
    assert together[2].tokens > model.length  # in windows
    for text, score in zip(texts, together, strict=True):
        assert score.bytes == len(text) and score.standard_error > 0
        assert score.bits_per_byte == pytest.approx(score.nats / math.log(2) / len(text))
        assert score.nats_per_token == pytest.approx(score.nats / score.tokens)
    causal = model_of("autoregressive")
    (score,) = causal.score("The people")
    ids = torch.tensor(causal.tokenizer.encode("The people").ids)
    start = torch.tensor([causal.denoiser.mask_id])
    log_p = causal.denoiser.log_x_theta(causal.denoiser.hidden(torch.cat((start, ids[:-1]))[None], torch.zeros(1)))
    nats = -log_p.gather(1, ids[:, None]).sum().item()
    assert score.exact and score.standard_error == 0.0 and score.nats == pytest.approx(nats, rel=1e-5)


def test_what_makes_no_sense_is_refused_with_the_name_of_the_option(model, model_of):
    for words, call in (
        ("--temprature: is no option.*did you mean 'temperature'", lambda: model.sample(temprature=1.0)),
        ("--sampler cda: is not known.*did you mean 'cad'", lambda: model.sample(sampler="cda")),
        ("--threshold: is no option of --sampler ancestral, but of cad", lambda: model.sample(threshold=0.5)),
        ("--top-p 2.0: must be in", lambda: model.sample(top_p=2.0)),
        ("--temperature: does nothing here", lambda: model.sample(sampler="cad", greedy=True, temperature=0.5)),
        ("--sampler causal: draws from autoregressive", lambda: model.sample(sampler="causal")),
        ("--steps: is a field of the sampler", lambda: model.sample(sampler=Ancestral(4), steps=3)),
        ("--length 0: must be 1 to 65,536", lambda: model.sample(length=0)),
        ("--candidates 2: must be at least the 3", lambda: model.infill(TEMPLATE, 3, candidates=2)),
        ("--draws 0: must be at least 1", lambda: model.score("a", draws=0)),
    ):
        with pytest.raises(UsageError, match=words):
            call()
    with pytest.raises(DataError, match=r"--template: '\[mask\]' is no mask"):
        model.infill("a [mask]")
    with pytest.raises(DataError, match="text 1: has 0 tokens"):
        model.score(["a", ""])
    with pytest.raises(UsageError, match="--steps: does nothing here, since an autoregressive model"):
        model_of("autoregressive").sample(steps=4)
    with pytest.raises(UsageError, match="maps noise to text, and has no likelihood"):
        model_of("locked").score("a")
    with pytest.raises(ValueError, match="--num 0: must be at least 1"):
        model.sample(0)


def test_the_public_names_are_there():
    assert set(mcd.__all__) <= set(dir(mcd))
    assert all(getattr(mcd, name) is not None for name in mcd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        mcd.lode  # noqa: B018


def test_a_state_is_shown_in_few_words_and_a_place_that_is_not_there_is_refused(model):
    (*_, last) = model.stream(None, steps=1, length=2)
    assert len(repr(last)) < 300
    with pytest.raises(UsageError, match="device='attic': cannot be used here"):
        mcd.load("demo", device="attic")
