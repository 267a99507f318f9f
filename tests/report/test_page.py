"""`mcd report`: the page is complete, self-contained and escaped, and says what is missing."""

import json
import re

import pytest

from mcd.errors import UsageError
from mcd.report.figures import losses
from mcd.report.runs import Run, read_runs
from mcd.report.sweeps import rounds as rounds_of
from mcd.report.training import has_gap, loss_terms, losses_figure


@pytest.mark.heavy
def test_complete_page_and_the_same_bytes_again(demo, page_of):
    options = ("--title", "A <b>title</b>")
    page = page_of(demo, *options)
    assert page_of(demo, *options).source == page.source
    assert page.tags.isdisjoint({"link", "iframe", "img", "object"})
    assert page.source.count("<script>") == 1 and "<script " not in page.source  # what drags the time
    assert all(load.startswith("#") for load in page.loads)
    assert {link for link in page.links if not link.startswith("#")} == {"https://arxiv.org/abs/2602.00792"}
    assert page.source.count("http") == 1 and "url(http" not in page.source and "@import" not in page.source
    assert len(set(page.ids)) == len(page.ids)
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    assert all(f'id="{load[1:]}"' in page.source for load in page.loads)
    assert "<script>alert('student & 8')</script>" in page.text and "A <b>title</b>" in page.text
    assert page.source.count("<svg") == 9  # curves, entropy, frontier, two by round, theory, counts, two runs' losses
    assert "#0a0b" not in page.source
    for words in (
        "The largest saving is",
        "round 1 217",
        "step 3 of 8",
        "δ by round: 0.0156",
        "git_commit",
        "mcd distill mcd --teacher demo --out runs/student",
    ):
        assert words in page.text


def test_a_gap_is_one_though_no_token_happened_to_show_it():
    row = {"step": 2, "round": 1, "tokens_distilled": 27, "tokens_revealed": 0, "tokens_visible": 37}
    for objective, gap in (({"name": "mcd"}, True), ({"name": "mcd", "delta0": 0.0}, False), ({"name": "new"}, False)):
        assert has_gap(Run("run", [], [], [], [], [row], {"objective": objective}, {}, None, None)) == gap
    one = [("distilled", [2.0], [0.0045])]
    ticks = re.findall(r'middle; fill: var\(--muted\)"[^>]*>([\d.]+)<', losses(one, [], "nats", "one step"))
    assert ticks == ["2"]  # and no part of a step


def sweep(model, steps, temperature, gen_ppl, entropy):
    row = {"model": model, "steps": steps, "temperature": temperature, "gen_ppl": gen_ppl, "entropy": entropy}
    return row | {"gen_ppl_lo": gen_ppl * 0.9, "gen_ppl_hi": gen_ppl * 1.1}


@pytest.mark.heavy
def test_the_frontier_is_drawn_for_each_number_of_steps(tmp_path, page_of):
    rows = [sweep(m, n, t, 100 * t + n, 4 + t) for m in ("a<b", "student") for n in (4, 8) for t in (0.8, 1.0)]
    words = {"model": "student", "steps": 4, "measure": "gen_ppl", "entropy": 4.9, "entropy_of": "student at T = 1"}
    matched = [words | {"value": 91.0, "lo": None, "hi": None, "teacher": "a<b", "teacher_value": None}]
    exact = words | {"measure": "nll", "value": 1.0}
    (tmp_path / "frontier.json").write_text(json.dumps({"rows": rows, "matched": [*matched, exact]}))
    page = page_of(tmp_path)
    assert page.source.count('aria-label="Gen PPL against entropy at ') == 2
    assert "a<b" in page.text and "91.0" in page.text
    assert page.text.count("student at T = 1") == 1  # Gen PPL alone
    (tmp_path / "frontier.json").write_text(json.dumps({"rows": [{"model": "a", "gen_ppl": "many"}]}))
    with pytest.raises(UsageError, match=r"frontier.json: row 0: gen_ppl is 'many', not a number"):
        read_runs([tmp_path])


@pytest.mark.heavy
def test_several_runs_are_drawn_round_by_round_at_the_steps_with_most_rounds(row, metrics, page_of):
    for name, rounds in (("one", 3), ("two", 2), ("three", 1)):
        rows = [row("student", 8, 200 - 20 * n, 4.4, n) for n in range(1, rounds + 1)]
        folder = metrics([*rows, row("student", 2, 300, 4.4, rounds)], name)
    lines = rounds_of([one for run in read_runs([folder.parent]) for one in run.measured])
    assert [(line.label.split("/")[-1], [one.round for one in line.rows]) for line in lines] == [
        ("one, 8 steps", [1, 2, 3]),
        ("two, 8 steps", [1, 2]),
    ]
    assert lines[0].colour != lines[1].colour
    assert "a line for each run" in page_of(folder.parent).text


@pytest.mark.heavy
def test_every_colour_of_a_figure_has_a_variable(demo, page_of):
    source = page_of(demo).source
    used = {part.split(")")[0] for part in source.split("var(--")[1:]}
    assert all(f"--{name}:" in source for name in used)


def test_only_metrics_says_what_is_missing(row, metrics, page_of):
    text = page_of(metrics([row("teacher", 8, 200, 4.4), row("student", 8, 150, 4.4, 1)])).text
    for words in (
        "No pair of student at N and teacher at 16 N",
        "cooled to the student's entropy was not measured",
        "tau-only control was not measured",
        "Held-out text was not measured",
        "No samples_*.jsonl was found",
        "No trajectory.jsonl was found",
        "no run has a logged distillation",
        "No stats.jsonl was found",
        "No environment was recorded",
        "All rows were measured by one protocol",
    ):
        assert words in text


def test_the_order_that_a_model_is_named_after_is_no_difference(row, metrics, page_of):
    rows = [row("teacher", 4, 300, 4.5), row("teacher-spread", 4, 200, 4.5, order="low-discrepancy")]
    assert "All rows were measured by one protocol" in page_of(metrics(rows)).text
    assert (
        "they differ in order"
        in page_of(metrics([*rows, row("teacher", 8, 100, 4.5, order="stratified")], "others")).text
    )


def test_without_scorer_or_metrics(row, metrics, distillation, page_of):
    bare = row("student", 8, 150, 4.4, 1) | {"gen_ppl": None, "gen_ppl_lo": None, "gen_ppl_hi": None}
    text = page_of(metrics([bare])).text
    assert "No scorer was used" in text and "no student with a Gen PPL" in text
    text = page_of(distillation(1 / 16, rounds=2)).text
    assert "No metrics.json was found" in text and "Counted in" in text


@pytest.mark.parametrize(("method", "renews"), [("mcd", True), ("mmd", False), ("idlm", False), ("ltd", False)])
def test_what_begins_with_a_round_is_said_of_methods_that_renew_the_teacher(method, renews, distillation, page_of):
    folder = distillation(1 / 16, rounds=2)
    run = json.loads((folder / "run.json").read_text())
    run["config"]["objective"] = {"name": method}
    (folder / "run.json").write_text(json.dumps(run))
    text = page_of(folder).text
    assert "Dashed lines separate the rounds" in text
    assert ("begins with the student in the place of the teacher" in text) == renews


def test_likelihoods_are_shown_per_token_and_per_byte(metrics, distillation, page_of):
    row = {"model": "mine", "text": "data/letters.txt", "valid_ppl": 45.01, "rows": 64, "protocol": {}}
    row |= {
        "valid_nelbo": 3.80712,
        "valid_nelbo_lo": 3.6,
        "valid_nelbo_hi": 4.0,
        "exact": False,
        "bytes_of": "the rest",
    }
    row |= {"valid_bpb": 1.53744, "valid_bpb_lo": 1.4, "valid_bpb_hi": 1.7, "counted": None}
    words = {"model": "exact", "text": "hmm", "valid_nelbo": 1.5, "valid_ppl": 4.5, "exact": True, "valid_bpb": None}
    text = page_of(metrics([row, words])).text
    assert "mineletters.txt 3.807 [3.600, 4.000]45.01.537 [1.400, 1.700] 64bound" in text  # cells, one after the other
    assert "exacthmm 1.5004.50\u2013 \u2013exact" in text
    assert "mine, letters.txt: bytes of the rest." in text and "No measurements were found" not in text
    folder = distillation(1 / 16, rounds=2)
    with (folder / "stats.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9, "loss": 1.0, "valid_nelbo": 3.80712, "valid_bpb": 1.53744}) + "\n")
    assert "Validation at step 9: 3.807 nats per token, 1.537 bits per byte." in page_of(folder).text


def test_unlike_protocols_are_named_and_not_compared(row, metrics, said, page_of):
    text = page_of(metrics([row("teacher", 128, 100, 4.4, length=256), row("student", 8, 90, 4.4, 1)])).text
    assert "they differ in length (256 / 128)" in text
    assert "measured under another protocol (it differs in length)" in text
    assert "largest saving" not in text and "Student at 8 steps against" not in text
    alike = [row("teacher", 128, 100, 4.4, seed=1, threads=4), row("student", 8, 90, 4.4, 1)]
    assert "Student at 8 steps against teacher at 128" in said(alike)


@pytest.mark.heavy
def test_a_hostile_run_is_shown_as_text(demo, page_of):
    """Names, protocols and configurations are escaped; an objective that is none has no gap."""
    evil = "<img src=x onerror=alert(1)>\u0007"
    rows = json.loads((demo / "metrics.json").read_text())
    for row in rows["rows"]:
        row |= {"model": row["model"] + evil * (row["model"] == "text"), "protocol": row["protocol"] | {evil: evil}}
    (demo / "metrics.json").write_text(json.dumps(rows))
    run = json.loads((demo / "student" / "run.json").read_text())
    run |= {"command": evil, "environment": {evil: evil}, "config": {"objective": evil, evil: [evil]}}
    (demo / "student" / "run.json").write_text(json.dumps(run))
    page = page_of(demo)
    assert "img" not in page.tags and page.text.count("<img src=x onerror=alert(1)>\ufffd") > 5


def test_of_a_policy_gradient_the_reward_is_drawn_and_not_the_loss(tmp_path):
    row = {"round": 1, "loss": -1e-5, "distillation": -1e-5, "attraction": 0.6, "repulsion": 0.5}
    rows = [json.dumps(row | {"step": step, "reward": 0.6 + step / 100}) for step in (1, 2, 3)]
    (tmp_path / "stats.jsonl").write_text("\n".join(rows) + "\n")
    (run,) = read_runs([tmp_path])
    assert loss_terms(run) == ["reward"]
    figure = losses_figure(run)
    assert ">reward<" in figure and "nats" not in figure
