"""Damaged, odd and empty folders are read, or refused by name."""

import pytest

from mcd.cli import report
from mcd.errors import UsageError


def test_half_written_and_odd_files(tmp_path, trajectories, page_of):
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "samples_x$y_s4.jsonl").write_text('{"text": "lone \\ud800 surrogate, bell \\u0007"}\n{"cut')
    trajectories(folder / "trajectory.jsonl")
    for name in ("trajectory.jsonl", "stats.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"cut')
    text = page_of(folder).text
    assert "step 3 of 8" in text and "lone \ufffd surrogate, bell \ufffd" in text


def test_unusable_folders(tmp_path, row, rows, metrics):
    def refused(*words: str) -> str:
        with pytest.raises(UsageError) as error:
            report.main([*words, "--out", str(tmp_path / "r.html")])
        assert not (tmp_path / "r.html").exists()
        return str(error.value)

    assert "nowhere: no such folder" in refused(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "empty: holds nothing to report" in refused(str(tmp_path / "empty"))
    (tmp_path / "file").write_text("")
    assert "file: is not a folder" in refused(str(tmp_path / "file"))
    for i, content in enumerate(('{"rows": [', "[]", '{"rows": 3}', '{"rows": [{}]}')):
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}" / "metrics.json").write_text(content)
        assert f"{i}/metrics.json" in refused(str(tmp_path / f"{i}"))
    metrics([row("teacher", 8, 200, 4.4) | {"gen_ppl": "low"}], "text")
    assert "gen_ppl is 'low'" in refused(str(tmp_path / "text"))
    fine = str(metrics(rows()[:1], "fine"))
    with pytest.raises(UsageError, match="is no folder"):
        report.main([fine, "--out", str(tmp_path / "file" / "r.html")])
    with pytest.raises(UsageError, match="is a folder"):
        report.main([fine, "--out", str(tmp_path / "empty")])
