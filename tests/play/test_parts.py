"""What the pages of the playground show, without a browser."""

import asyncio
import re

import pytest
import torch

from mcd.api.model import Model, load
from mcd.errors import DataError
from mcd.play import latent
from mcd.play.drawing import picture
from mcd.play.infill import fill, parts_of, words_of
from mcd.play.race import race


@pytest.fixture(scope="module")
def model(ours) -> Model:
    """A masked model with random weights, rows of 16 tokens and a tokenizer of 2,048."""
    return load(str(ours), device="cpu")


def test_lanes_end_as_the_rows_of_infill_and_fill_together(model):
    template, last, times = "We [MASK:9] peace.", None, []
    for lanes in race([(model, 2), (model, 8)], template, seed=3):
        times.append([lane.t for lane in lanes])
        last = lanes
    assert last is not None and all(abs(a - b) <= 0.5 for a, b in times)  # none is a step of the other ahead
    for lane, steps in zip(last, (2, 8), strict=True):
        drawn = model.infill(template, steps=steps, seed=3)
        assert lane.canvas is not None and lane.canvas.ids == tuple(drawn.ids[0].tolist())
        assert lane.nfe == drawn.nfe[0] and lane.canvas.step == lane.canvas.steps == steps and lane.seconds > 0


def test_a_token_has_the_step_in_which_it_appeared(model):
    states = list(model.stream("We [MASK:9] peace.", steps=4, seed=1))
    *_, (lane,) = race([(model, 4)], "We [MASK:9] peace.", seed=1)
    blank_id = model.denoiser.blank_id
    for i, (since, given) in enumerate(zip(lane.canvas.since, lane.canvas.given, strict=True)):
        assert since == next(n for n, state in enumerate(states) if state.ids[0, i] != blank_id)
        assert given == (since == 0)


def test_a_refused_lane_says_why_and_the_other_goes_on(model):
    *_, lanes = race([(model, 4), (model, 10**7)], "We [MASK:3] peace.")
    assert lanes[0].t == 0.0 and lanes[0].refused is None
    assert lanes[1].canvas is None and "--steps 10000000" in lanes[1].refused


@pytest.mark.heavy
def test_both_pages_have_a_slider_of_guidance_and_none_at_its_start(model):
    pytest.importorskip("gradio")
    from mcd.play.app import UNSET, _how, pages

    async def made():  # in a loop that is closed again, since Gradio opens one where none runs
        return pages({"tiny": model})

    blocks = asyncio.run(made())
    sliders = [one for one in blocks.blocks.values() if getattr(one, "label", None) == "Guidance"]
    assert [(one.minimum, one.maximum, one.step, one.value) for one in sliders] == [(0.0, 2.0, 0.05, 0.0)] * 2
    names = ["Temperature", "Top p", "Guidance", "Sampler", "Order"]
    asked = [[getattr(one, "label", None) for one in call.inputs] for call in blocks.fns.values()]
    asked = [labels[labels.index("Temperature") :] for labels in asked if "Temperature" in labels]
    assert len(asked) == 4 and all(labels[:5] == names for labels in asked)
    assert set(_how(1.0, 1.0, 0.0, UNSET, UNSET).values()) == {None}
    assert _how(1.0, 0.9, 0.5, "remdm", UNSET) == {
        "temperature": None,
        "top_p": 0.9,
        "guidance": 0.5,
        "sampler": "remdm",
        "order": None,
    }


def test_lanes_are_guided(model):
    *_, (plain,) = race([(model, 4)], "We [MASK:9] peace.", seed=3)
    *_, (lane,) = race([(model, 4)], "We [MASK:9] peace.", seed=3, guidance=2.0)
    assert lane.canvas.ids == tuple(model.infill("We [MASK:9] peace.", steps=4, seed=3, guidance=2.0).ids[0].tolist())
    assert lane.canvas.ids != plain.canvas.ids and lane.nfe == plain.nfe


def test_html_is_escaped(model):
    *_, (lane,) = race([(model, 1)], "<b>We</b> [MASK:3]")
    assert lane.canvas.html().startswith("&lt;b") and "<b>" not in lane.canvas.html()


@pytest.mark.parametrize("text", ["", " ", "peace", "  We  are\n at peace.  ", "a [MASK] b"])
def test_words_are_the_whole_text(text):
    assert "".join(words_of(text)) == (text if text.strip() else "")


def test_words_to_write_become_as_many_blanks_as_they_have_tokens(model):
    text = "We are at peace with [MASK] nations."
    words = words_of(text)
    parts = parts_of(words, {1, 2, 6}, model.tokenizer)
    assert parts == [
        "We",
        len(model.tokenizer.encode(" are at").ids),
        " peace with [MASK]",
        len(model.tokenizer.encode(" nations.").ids),
    ]
    rows, _ = fill(model, parts, 2, 3, steps=2)
    for row in rows:
        shown = "".join(token or "" for token in row.canvas.tokens)
        assert shown.startswith("We") and " peace with [MASK]" in shown and row.bound is not None


def test_both_projections_agree_along_a_path_and_levels_are_their_own_inverse(model):
    one = latent.locked(model, "We are at peace with all the world", seed=2)
    before = torch.ones(len(one.words), dtype=torch.bool)
    for t in torch.linspace(0.0, 1.0, 21).tolist():
        level = latent.level_of_time(one, t)
        seen = latent.see(one, level)
        assert torch.equal(seen.unmasked, one.u <= level.alpha)
        if level.alpha > 1 / one.K:
            assert torch.equal(seen.projected, seen.unmasked)
            assert latent.level_of_root(one, level.root).t == pytest.approx(t, abs=1e-9)
        assert torch.equal(seen.projected, seen.own > seen.rivals[:, 0])
        assert not (seen.projected & ~before).any()  # what is masked stays masked
        before = seen.projected
        assert len(re.findall('class="hidden"', picture(one, seen))) == int(
            (~seen.projected).sum() + (~seen.unmasked).sum()
        )


def test_a_text_without_tokens_or_with_too_many_is_refused(model):
    for text in ("", "peace " * (latent.MOST + 1)):
        with pytest.raises(DataError, match="give one of 1 to"):
            latent.locked(model, text, 0)
