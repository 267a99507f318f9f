"""Result pages say what the JSON says: every cell where it belongs, nothing where nothing was measured."""

import json
from pathlib import Path

import pytest

from mcd.reproduce.pages import page
from mcd.table import markdown_table

RESULTS = Path(__file__).parents[2] / "results" / "cpu"


def rows_of(text: str, first: str) -> list[list[str]]:
    """The cells of the table lines that begin with `first`."""
    lines = [
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return [cells for cells in lines if cells[0] == first]


def test_a_table_has_a_rule_below_its_headings():
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |\n"


def test_table_1_puts_cells_below_their_steps():
    def row(model, round, steps, ppl):
        return {"model": model, "round": round, "steps": steps, "gen_ppl": ppl, "entropy": ppl / 1000}

    rows = [row("text", None, None, 50.0), row("mcd", 1, 8, 1234.0), row("mcd", 1, 32, 900.0), row("mcd", 2, 32, 800.0)]
    text = page("table1", {"command": "mcd reproduce table1", "rows": rows, "findings": ["so it is"]})
    assert text is not None and "mcd reproduce table1" in text and "- so it is" in text
    assert rows_of(text, "Gen PPL / entropy") == [["Gen PPL / entropy", "8 steps", "32 steps"]]
    assert rows_of(text, "mcd, round 1") == [["mcd, round 1", "1,234 / 1.23", "900 / 0.90"]]
    assert rows_of(text, "mcd, round 2") == [["mcd, round 2", "", "800 / 0.80"]]
    assert rows_of(text, "text") == [["text", "50 / 0.05", ""]]


def test_the_frontier_page_tells_what_was_not_reached():
    common = {"language": "hmm", "measure": "nll", "steps": 4, "seed": 1, "entropy": 2.5, "teacher": "mdlm"}
    teacher = {"teacher_value": 2.2, "teacher_lo": 2.1, "teacher_hi": 2.3, "teacher_temperature": 0.8}
    reached = {"model": "mcd", "entropy_of": "mcd at T = 1", "value": 2.0, "lo": 1.9, "hi": 2.1, "temperature": 1.0}
    missed = {"model": "sdtt", "entropy_of": "mcd at T = 1", "value": None, "lo": None, "hi": None, "temperature": None}
    text = page("frontier", {"command": "c", "matched": [common | teacher | reached, common | teacher | missed]})
    assert text is not None
    own, others = text.split("## All at the entropy of MCD")
    (cells,) = rows_of(own, "hmm")
    assert cells[3] == "mcd" and cells[6:] == ["2.000 (1.900 to 2.100)", "mdlm at T = 0.80", "2.200 (2.100 to 2.300)"]
    (cells,) = rows_of(others, "hmm")
    assert cells[3] == "sdtt" and cells[6] == "not reached"


def test_the_page_of_languages_begins_with_the_means_over_seeds():
    row = {"language": "hmm", "steps": 4, "model": "ltd", "seeds": 3, "sureness": -0.25}
    row |= {"nll": 2.0, "nll_teacher": 2.25, "nll_ahead": 2, "tv_bigram": 0.1, "tv_bigram_teacher": 0.2}
    text = page("frontier_methods", {"command": "c", "summary": [row | {"tv_bigram_ahead": 3}], "matched": []})
    assert text is not None
    assert rows_of(text.split("## Each")[0], "4") == [
        ["4", "ltd", "2.000 : 2.250 (2 of 3)", "0.100 : 0.200 (3 of 3)", "not reached", "-0.250"]
    ]


def test_the_page_of_the_papers_methods_begins_with_the_best_order():
    row = {"language": "hmm", "steps": 4, "model": "mcd", "seeds": 3, "sureness": 0.0}
    text = page("frontier_languages", {"command": "c", "best": {"summary": [row]}, "matched": []})
    assert text is not None and text.index("## hmm, in the best order") < text.index("## Each at its own entropy")


def test_the_page_of_guidance_tells_who_is_ahead_in_how_many_seeds():
    row = {"language": "hmm", "teacher": "trained", "steps": 4, "way": "guidance 0.5", "measure": "nll", "value": 2.0}
    row |= {"temperature_own": 1.9, "temperature_value": 2.25, "temperature_seeds": 3, "temperature_ahead": 2}
    row |= {"top-p_own": None, "top-p_value": None, "top-p_seeds": 0, "top-p_ahead": 0}
    row |= {"twice_own": 2.0, "twice_value": 1.75, "twice_seeds": 3, "twice_ahead": 0, "sureness": 0.125}
    text = page("guidance", {"command": "c", "compared": [], "summary": [row], "rows": [], "surprise_of_text": 5.5})
    assert text is not None and "5.500 nats" in text
    (cells,) = rows_of(text.split("## hmm, trained teacher")[1], "4")
    assert cells == [
        "4",
        "guidance 0.5",
        "nll",
        "2.000",
        "1.900 : 2.250 (2 of 3)",
        "not reached",
        "2.000 : 1.750 (0 of 3)",
        "+0.125",
    ]


def test_samplers_that_choose_their_calls_have_a_table_of_their_own():
    common = {"language": "hmm", "model": "exact", "nll": 2.0, "tv_bigram": 0.1}
    fixed = [common | {"sampler": "remdm", "remasking": "cap", "steps": n, "nfe": n} for n in (2, 4)]
    own = common | {"sampler": "klass", "threshold": 0.3, "history": 1, "steps": 64, "nfe": 19.25}
    text = page("orders", {"command": "c", "rows": [*fixed, own]})
    assert text is not None
    first, second = text.split("## hmm, samplers that choose their calls")
    assert rows_of(first, "exact") == [["exact", "remdm cap", "2.000 / 0.100", "2.000 / 0.100"]]
    assert rows_of(second, "exact") == [["exact", "klass", "threshold 0.3, history 1", "19.2", "2.000 / 0.100"]]


@pytest.mark.parametrize(
    "name", sorted(file.stem for file in RESULTS.glob("*.md") if file.with_suffix(".json").is_file())
)
def test_published_pages_are_those_of_their_json(name):
    result = json.loads((RESULTS / f"{name}.json").read_text())
    assert page(name, result) == (RESULTS / f"{name}.md").read_text(encoding="utf-8")


def test_experiments_without_a_page_have_none():
    assert page("figure1", {"command": "c", "rows": []}) is None
