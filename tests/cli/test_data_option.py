"""`--data` of the training commands: which folder it becomes, and what a teacher says of its own."""

import json

import pytest

from mcd.cli.data_option import prepared
from mcd.data.languages.known import LANGUAGES
from mcd.data.manifest import read_manifest
from mcd.errors import DataError, UsageError
from mcd.training.trained_on import data_of_model, language_of_model


def trained_on(folder, **config):
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"config": config}))
    return folder


def test_edited_text_is_prepared_anew(text_file, tmp_path):
    text, cache, options = tmp_path / "a.txt", tmp_path / "cache", {"vocab_size": 300, "length": 16}
    text.write_bytes(text_file.read_bytes())
    first = prepared(str(text), cache, **options)
    assert prepared(str(text), cache, **options) == first
    text.write_text(text.read_text() + "\n\nOne more document.\n\nAnd another.")
    second = prepared(str(text), cache, **options)
    documents = [read_manifest(folder)["splits"]["train"][0]["documents"] for folder in (first, second)]
    assert documents == [60, 61]


def test_short_rows_need_little_text_and_are_the_same_data(text_file, tmp_path):
    """So a run on text that was prepared for rows of 128 goes on, and one on less text than two of them begins."""
    text, cache, options = tmp_path / "a.txt", tmp_path / "cache", {"vocab_size": 270}
    text.write_bytes(text_file.read_bytes())
    folders = [prepared(str(text), cache, row_length=length, **options) for length in (None, 256, 16)]
    assert folders[0] == folders[1] != folders[2]
    assert read_manifest(folders[0])["splits"] == read_manifest(folders[2])["splits"]
    text.write_text("A few words.\n\nAnd a few more of them.")
    with pytest.raises(DataError, match="too few for two rows of --length 128"):
        prepared(str(text), cache, **options)
    assert read_manifest(prepared(str(text), cache, row_length=4, **options))["recipe"]["length"] == 4


def test_an_empty_name_is_not_the_current_folder(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_data)
    with pytest.raises(DataError, match="names nothing"):
        prepared("", tmp_path)


def test_a_model_says_what_it_or_its_teacher_was_trained_on(tiny_data, tmp_path):
    teacher = trained_on(tmp_path / "teacher", data=str(tiny_data))
    (teacher / "config.json").touch()
    student = trained_on(tmp_path / "student", data=None, teacher=str(teacher))
    assert data_of_model(teacher) == data_of_model(student) == str(tiny_data)
    assert data_of_model(trained_on(tmp_path / "other", teacher="demo")) == "sotu"


@pytest.mark.parametrize("text", [None, "", "{", "{}", "[]", '{"config": []}', '{"config": {"data": 3}}', "\xff"])
def test_a_model_that_does_not_say(tmp_path, text):
    if text is not None:
        (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="does not say what it was trained on; give --data"):
        data_of_model(tmp_path)


def test_its_own_teacher_says_nothing(tmp_path):
    (tmp_path / "config.json").touch()
    with pytest.raises(UsageError, match="does not say"):
        data_of_model(trained_on(tmp_path, teacher=str(tmp_path)))


@pytest.mark.parametrize("config", [{"data": "p/ok.txt"}, {"teacher": "./p/teacher"}])
def test_a_path_that_is_not_found_from_here_is_known_to_be_the_models(tmp_path, config):
    with pytest.raises(UsageError, match=r"p/.*no such.*run\.json.*give --data"):
        data_of_model(trained_on(tmp_path, **config))


def test_a_language_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("mcd.data.prepare.pipeline.LANGUAGE_TOKENS", {"train": 4000, "valid": 1000})
    folder = prepared("hmm", tmp_path / "cache", vocab_size=2048)
    assert read_manifest(folder)["vocab_size"] == 32
    assert data_of_model(trained_on(tmp_path / "teacher", data="hmm")) == "hmm"
    same = prepared("hmm", tmp_path / "cache", folder / "tokenizer.json")
    assert read_manifest(same)["splits"] == read_manifest(folder)["splits"]


@pytest.mark.parametrize("name, found", [("grammar", "grammar"), ("english", None)])
def test_the_words_of_a_model_say_its_language_where_its_data_are_not_found(name, found, tmp_path):
    """Its samples would be scored as text; those of `english` are."""
    LANGUAGES[name]().tokenizer().save(str(tmp_path / "tokenizer.json"))
    assert language_of_model(trained_on(tmp_path, data="data/of-another-folder")) == found


def test_words_of_two_languages_are_told(tmp_path):
    LANGUAGES["hmm"]().tokenizer().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UsageError, match="has the words of markov and hmm, and which it is cannot be told"):
        language_of_model(trained_on(tmp_path, data="data/hmm"))
