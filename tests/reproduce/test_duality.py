"""The duality's checks pass on small draws and fail when something is wrong; figures 1, 2 and the precision finding."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from scipy import stats

from mcd.process.categorical import sample_gumbel_race
from mcd.process.duality import calibrated_snr_root
from mcd.process.schedule import LogLinear
from mcd.report.plotting import figure
from mcd.reproduce import duality, figure1, figure2, precision
from mcd.reproduce import duality_checks as checks
from mcd.reproduce.text import SENTENCE, V, sentence_tokens


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def failed(rows):
    return {row["check"] for row in rows if not row["pass"]}


@pytest.fixture(scope="module")
def draws():
    return checks.draw_margins(32, 20_000, seeded(0))


@pytest.fixture(scope="module")
def paths():
    return checks.draw_paths(32, 2000, 33, seeded(1))


@pytest.mark.slow
def test_run_writes_a_table_that_passes_and_a_figure(tmp_path):
    small = {2: 2400, 1024: 1600}
    result = duality.run(tmp_path, small, {2: 400, 1024: 64}, times=9, extra=1000)
    rows = json.loads(json.dumps(result, allow_nan=False))["rows"]
    assert failed(rows) == set()
    assert {row["K"] for row in rows} == set(small)
    assert 10_000 < (tmp_path / "duality.png").stat().st_size <= 200_000


def test_the_floor_parts_latent_and_scalar_paths_where_it_should(paths):
    rows = {row["check"]: row for row in checks.check_paths(paths)}
    assert rows["paths equal, alpha_t >= 1/K"]["differ"] == 0
    below = rows["paths equal, alpha_t < 1/K"]
    between = [alpha < u < 1 / 32 for alpha in paths.alpha.tolist() for u in paths.u.tolist()]
    assert below["differ"] == sum(between)
    assert below["differ"] > 0
    floors = {K: checks.check_floor(checks.draw_margins(K, 800, seeded(0)), K)[-1] for K in (32, 1024)}
    assert floors[32]["binds"]
    assert floors[32]["value"] == pytest.approx(0.9697, abs=1e-3)
    assert not floors[1024]["binds"]


@pytest.mark.slow
@pytest.mark.parametrize("K", [16, 64])
def test_the_theory_of_another_K_is_found_out(draws, paths, K):
    assert failed(checks.check_cdf(draws.y, 32)) == set()
    assert failed(checks.check_cdf(draws.y, K)) == {"law of Y"}
    assert "u uniform" in failed(checks.check_u(draws, K))
    assert "floor, no signal (draws)" in failed(checks.check_floor(draws, K))
    assert "latent = (u < max(alpha_t, 1/K))" in failed(checks.check_paths(replace(paths, K=K)))


@pytest.mark.heavy
def test_a_wrong_calibration_is_found_out(monkeypatch):
    assert failed(checks.check_calibration(32)) == set()
    monkeypatch.setattr(checks, "calibrated_snr_root", lambda alpha, K: calibrated_snr_root(alpha, K + 1))
    assert failed(checks.check_calibration(32)) == {"calibration"}
    assert "floor binds from t on" in failed(checks.check_floor(checks.draw_margins(32, 800, seeded(0)), 32))


def test_one_wrong_state_is_found_out(paths):
    flipped = paths.latent.clone()
    flipped[5, 3] = ~flipped[5, 3]
    rows = checks.check_paths(replace(paths, latent=flipped))
    assert {"paths equal, alpha_t >= 1/K", "latent = (u < max(alpha_t, 1/K))"} <= failed(rows)
    back = paths.latent.clone()
    back[-1] = True
    assert "mask absorbs along one eps" in failed(checks.check_paths(replace(paths, latent=back)))


@pytest.mark.heavy
def test_dependence_of_u_is_found_out(draws):
    assert failed(checks.check_u(draws, 32)) == set()
    y = draws.y.clone()
    y[:, 1::2] = 0.9 * y[:, 1::2] + 0.1 * y[:, 0::2]
    assert "u of neighbours" in failed(checks.check_u(replace(draws, y=y), 32))
    shifted = draws.y + 0.2 * (draws.x0 == 0)
    assert "u and x0" in failed(checks.check_u(replace(draws, y=shifted), 32))
    neighbour = draws.y + 0.2 * (draws.x0.roll(1, 1) == 0)
    assert "u and x0 of the neighbour" in failed(checks.check_u(replace(draws, y=neighbour), 32))


def test_order_statistic_is_the_law_of_real_draws(draws):
    short = checks.draw_margins_by_order_statistic(32, 20_000, seeded(2))
    assert stats.ks_2samp(short.numpy(), draws.y.flatten().numpy()).pvalue > 1e-3


def test_tokens_depend_on_each_other():
    x0 = checks.sample_tokens(4000, 32, seeded(0))
    assert x0.min() == 0
    assert x0.max() == 30
    same = (x0[:, 1:] == x0[:, :-1]).double().mean().item()
    p = 1 / torch.arange(1, 32)
    assert same == pytest.approx(0.5 + 0.5 * (p / p.sum()).square().sum().item(), abs=0.02)


def test_a_fit_too_bad_or_too_good_fails():
    for counts, p in (((90.0, 110.0, 130.0, 70.0), 2 * stats.chi2.sf(20, 3)), ((100.0,) * 4, 0.0)):
        row = checks.chi_square_row("", 2, "", torch.tensor(counts), 3)
        assert row["p"] == pytest.approx(p, rel=1e-6) and not row["pass"]


def test_the_sentence_is_in_the_corpus():
    ids, words = sentence_tokens()
    assert "".join(words).replace("·", " ") == " " + SENTENCE
    assert ids.max() < V
    with pytest.raises(ValueError, match="not in the bundled corpus"):
        sentence_tokens("nobody ever said this")


@pytest.mark.slow
def test_figure1_is_drawn_from_the_process(tmp_path):
    result = figure1.run(tmp_path, draws=400, times=101)
    rows = json.loads(json.dumps(result, allow_nan=False))["rows"]
    a, b, c, d = ([row for row in rows if row["panel"] == panel] for panel in "abcd")
    assert all(
        row["last_visible_latent"] <= row["hidden_after_scalar"] < row["last_visible_latent"] + 0.01 for row in b
    )
    hidden = [row["hidden_after_scalar"] for row in b if row["token"] == a[0]["token"]]
    assert any(all(row["visible"] == (row["t"] < end) for row in a) for end in hidden)
    for row in c:
        assert abs(row["visible"] - row["alpha"]) <= 4 * math.sqrt(row["alpha"] * (1 - row["alpha"]) / 400) + 1e-9
    assert all(row["snr_root"] is None for row in d if row["t"] == 0)
    assert all(row["snr_root"] == 0 for row in d if row["K"] == 2 and row["t"] > 0.51)
    assert (tmp_path / "figure1.png").stat().st_size <= 200_000


@pytest.mark.slow
def test_figure2_shows_what_each_view_sees(tmp_path):
    result = figure2.run(tmp_path, t=0.7, delta=0.25, draws=4000)
    rows = json.loads(json.dumps(result, allow_nan=False))["rows"]
    tokens, shares = ([row for row in rows if row["panel"] == panel] for panel in "ac")
    alpha_t, alpha_s = (1 - 0.999 * time for time in (0.7, 0.45))
    for row in tokens:
        u = row["u"]
        assert (row["sees_t"], row["sees_s"]) == (u <= alpha_t, u <= alpha_s)
        assert row["regime"] == ("visible" if u <= alpha_t else "revealed" if u <= alpha_s else "distilled")
    assert {row["regime"] for row in tokens} == {"visible", "revealed", "distilled"}
    for row in shares:
        for name in ("visible", "revealed", "distilled"):
            p = row[f"{name}_exact"]
            assert abs(row[name] - p) <= 4 * math.sqrt(max(p * (1 - p), 1e-3) / 4000)
        assert sum(row[f"{name}_exact"] for name in ("visible", "revealed", "distilled")) == pytest.approx(1)
        assert row["revealed_exact"] == pytest.approx(0.999 * 0.25, abs=1e-6)
    first = (tmp_path / "figure2.png").read_bytes()
    assert figure2.run(tmp_path, t=0.7, delta=0.25, draws=4000) == result
    assert (tmp_path / "figure2.png").read_bytes() == first
    assert len(first) <= 200_000


def test_figures_are_written_as_their_suffix_says_and_a_png_also_as_svg(tmp_path):
    for name, start in (("a.png", b"\x89PNG"), ("b.svg", b"<?xml")):
        kept = []
        for folder in ("one", "two"):
            with figure(tmp_path / folder / name, 1, 2, (3.0, 1.5)) as axes:
                axes[1].plot([0, 1], [0, 1], label="x")
                axes[1].legend()
            kept.append((tmp_path / folder / name).read_bytes())
        assert kept[0].startswith(start)
        assert kept[0] == kept[1]
        assert b"<dc:date>" not in kept[0]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["a.png", "a.svg", "b.svg"]


def test_zipf_law_is_even_on_groups():
    law = precision.zipf()
    assert law.size.sum() == precision.V
    assert law.mass.sum().item() == pytest.approx(1)
    assert len(law.group) == precision.V
    rank_p = 1 / torch.arange(1, precision.V + 1, dtype=torch.float64)
    rank_p /= rank_p.sum()
    coarse = torch.zeros(len(law.size), dtype=torch.float64).index_add(0, law.group, rank_p)
    torch.testing.assert_close(coarse, law.mass)
    assert law.mass[law.tail].sum().item() == pytest.approx(rank_p[precision.TAIL_RANK :].sum().item(), abs=0.02)


@pytest.mark.parametrize("kind", ["fp32", "fp64"])
def test_one_runner_a_group_is_the_law_of_the_race(kind):
    law = precision.zipf(300)
    real = precision.draw_by_race(law, 8, 4000, kind, seeded(0))
    short = precision.draw_by_groups(law, 8, 4000, kind, seeded(1))
    table = torch.stack([torch.bincount(x, minlength=len(law.size)) for x in (real, short)])
    assert stats.chi2_contingency(table[:, table.sum(0) > 0].numpy()).pvalue > 1e-3
    expected = (law.mass * 4000).numpy()
    assert stats.chisquare(torch.bincount(short, minlength=len(expected)).numpy(), expected).pvalue > 1e-3


def test_float32_loses_the_tail_and_the_row_says_so():
    law = precision.zipf()
    rows = {}
    for kind in ("fp32", "fp64"):
        rows[kind] = precision.unigram_row(law, precision.draw_by_groups(law, 512, 600, kind, seeded(0)), 0)
    assert rows["fp32"]["tail_hi"] < rows["fp32"]["tail_exact"]
    assert rows["fp64"]["tail_lo"] < rows["fp64"]["tail_exact"] < rows["fp64"]["tail_hi"]
    assert rows["fp32"]["entropy_hi"] < rows["fp64"]["entropy_lo"]
    assert rows["fp64"]["entropy_lo"] < rows["fp64"]["entropy_exact"] < rows["fp64"]["entropy_hi"]


def test_cut_is_where_the_best_draw_ties_with_a_median_mask(monkeypatch):
    """At t = 1/2, with rand at its top for one token and at a half for the mask."""
    steps = 64
    for factor, wins in ((1.01, True), (0.99, False)):
        log_p = torch.full((1, 2), -torch.inf)
        log_p[0, 1] = math.log(factor * precision.cut_off(steps))
        fixed = torch.tensor([[0.5, 1 - 2.0**-24, 0.5]])
        monkeypatch.setattr(torch, "rand", lambda *args, fixed=fixed, **kwargs: fixed)
        alpha_t, alpha_s = 0.5, 0.5 + 1 / steps
        drawn = sample_gumbel_race(log_p, alpha_t, alpha_s, torch.float32, seeded(0))
        assert (drawn.item() == 1) == wins


def test_mass_below_a_cut(tiny_denoiser):
    denoiser = tiny_denoiser()
    ids = torch.randint(0, 23, (3, 16), generator=seeded(0))
    assert precision.mass_below(denoiser, ids, 2.0, seeded(1)) == pytest.approx(1, abs=1e-5)
    assert precision.mass_below(denoiser, ids, 0.0, seeded(1)) == 0
    some = [precision.mass_below(denoiser, ids, cut, seeded(1)) for cut in (0.01, 0.05, 0.15)]
    assert all(a < b for a, b in pairwise([0, *some, 1])), some


@pytest.mark.heavy
def test_precision_run_has_entropy_in_every_row(tmp_path: Path):
    result = precision.run(
        tmp_path, {2: 20}, {2: 50, 4: 50}, 500, teacher_steps=(2,), num=3, length=8, scorer=None, seed=1
    )
    rows = json.loads(json.dumps(result, allow_nan=False))["rows"]
    assert [row["part"] for row in rows] == ["synthetic"] * 6 + ["teacher"] * 2
    assert all(row["entropy_lo"] <= row["entropy_hi"] for row in rows)
    assert rows[-1]["protocol"]["sampler"] == "gumbel-race"
    assert {row["precision"] for row in rows} == {"fp32", "fp64"}
    assert (tmp_path / "precision.png").stat().st_size <= 200_000


def test_times_of_the_check_are_those_of_the_schedule(paths):
    torch.testing.assert_close(paths.alpha, LogLinear().alpha(paths.t))
    assert paths.t[0] == 0
    assert paths.t[-1] == 1
