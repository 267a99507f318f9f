"""Detokenisers on sentences as the datasets have them, the table, and files that stand in for the hub."""

import json
import sys

import pytest

from mcd.errors import DataError
from mcd.eval.zeroshot import PRESETS, documents_of


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("wikitext103", " = = Early life = = \n", " == Early life ==\n"),
        ("wikitext103", " = = = Fire = = = \n", " === Fire ===\n"),
        (
            "wikitext103",
            "a well @-@ known 1 @,@ 200 @.@ 5 m ( 3 ft ) wall . It",
            "a well-known 1,200.5 m (3 ft) wall. It",
        ),
        ("wikitext103", 'He said " no more " ; at 5 ° N he \'s cold \n', 'He said "no more"; at 5°N he\'s cold\n'),
        (
            "ptb",
            "the firm 's profit rose to $ N but they did n't say",
            "the firm's profit rose to $1 but they didn't say",
        ),
        ("ptb", "x N N <unk> and the workers ' pay was 1\\/2", "x 1 1 ? and the workers' pay was 1/2"),
        ("lm1b", "He said it 's over . Is it ? No !", "He said it's over. Is it? No!"),
        ("lm1b", 'See http : / / x.com , " the end " ( or not ) : $ 5', 'See http://x.com, "the end" (or not): $5'),
        ("lm1b", "in pounds and / or pence £ 6 .", "in pounds and/or pence £6."),
        ("lambada", " \u201cRun!\u201d he said ", '\n"Run!" he said'),
        ("ag_news", "As it  is .", "As it  is ."),
        ("pubmed", "we found a link ( p @.@ 5 ) ; see it 's small .", "we found a link (p.5); see it's small."),
    ],
)
def test_detokenisers(name, given, expected):
    assert PRESETS[name].detokenise(given) == expected


def test_the_seven_are_named_as_the_papers_name_them():
    assert list(PRESETS) == ["ptb", "wikitext103", "lm1b", "lambada", "ag_news", "pubmed", "arxiv"]
    for preset in PRESETS.values():
        assert "/" in preset.dataset and preset.split in ("validation", "test") and preset.note.endswith(".")


@pytest.mark.parametrize("name", PRESETS)
def test_a_file_of_ones_own_takes_the_hubs_place(name, tmp_path):
    field = PRESETS[name].field
    path = tmp_path / "copy.jsonl"
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in ("One , two .", " ", "It 's (three)")))
    expected = [PRESETS[name].detokenise(text) for text in ("One , two .", "It 's (three)")]
    assert list(documents_of(name, path)) == expected


@pytest.mark.parametrize("name", ["ptb", "ag_news"])
def test_of_a_folder_the_split_of_the_table_is_read(name, tmp_path):
    """As of the hub: not the text that models are trained on."""
    preset = PRESETS[name]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}-00000-of-00001.jsonl").write_text(json.dumps({preset.field: f"of {split}"}) + "\n")
    assert list(documents_of(name, tmp_path)) == [f"of {preset.split}"]


def test_the_hub_is_asked_for_what_the_table_says(monkeypatch):
    asked = []

    class Hub:
        def load_dataset(self, *args, **kwargs):
            asked.append((args, kwargs))
            return [{"sentence": "the dog 's day"}, {"sentence": ""}]

    monkeypatch.setitem(sys.modules, "datasets", Hub())
    assert list(documents_of("ptb")) == ["the dog's day"]
    (args, kwargs) = asked[0]
    assert args == ("ptb-text-only/ptb_text_only", "penn_treebank") and kwargs["split"] == "validation"


def test_without_the_hub_the_message_names_the_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"--likelihood arxiv: .*mcd-lm\[hub\].*arxiv=FILE \(field 'article'\)"):
        list(documents_of("arxiv"))

    class Unreachable:
        def load_dataset(self, *args, **kwargs):
            raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", Unreachable())
    with pytest.raises(DataError, match=r"is the hub dataset fancyzhx/ag_news.*ConnectionError.*network.*ag_news=FILE"):
        list(documents_of("ag_news"))
    with pytest.raises(DataError, match="no preset; known: ptb"):
        list(documents_of("bookcorpus"))
