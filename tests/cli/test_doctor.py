"""`mcd doctor`: fixes, exit status, and a self-test that can fail."""

import json

import pytest
import torch

from mcd.cli import doctor, doctor_checks, self_test
from mcd.cli.main import main


@pytest.mark.parametrize("quota, fix", [(0.5, "--threads 1"), (None, "--threads 2"), (1.0, "")])
def test_threads_beyond_the_quota_are_reported_with_a_fix(monkeypatch, quota, fix):
    monkeypatch.setattr(doctor_checks, "usable_cores", lambda: (2 if quota is None else 1, quota))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1 if quota == 1.0 else 3)
    (finding,) = doctor_checks.threads()
    assert fix in finding.fix and (finding.status == "ok") == (not fix)


@pytest.mark.heavy
def test_the_whole_of_it(tmp_path, capsys):
    assert main(["doctor", "--json", str(tmp_path / "doctor.json")]) == 0
    shown = capsys.readouterr().out
    written = json.loads((tmp_path / "doctor.json").read_text())
    found = {finding["name"]: finding for finding in written["findings"]}
    assert found["sampling"]["status"] == found["training"]["status"] == "ok"
    assert "equal bits" in found["training"]["value"]
    assert all(finding["name"] in shown and finding["value"] in shown for finding in written["findings"])
    assert not any(finding["status"] == "broken" for finding in written["findings"])
    assert all(finding["mend"] for finding in written["findings"] if finding["status"] != "ok")


def test_what_every_command_needs_is_broken_when_missing_and_the_rest_only_named(monkeypatch, capsys):
    monkeypatch.setattr(doctor_checks, "REQUIRED", ("torch", "no-such-package"))
    monkeypatch.setattr(doctor_checks, "OPTIONAL", {"no-extra": ("no_extra", "nothing", "none")})
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "broken no-such-package" in shown and "warn   no-extra" in shown and "pip install 'mcd-lm[none]'" in shown


def test_a_self_test_that_fails_is_broken(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", ())
    monkeypatch.setattr(doctor, "SELF_TESTS", (self_test.training,))

    def raises(*_, **__):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(self_test, "_train", raises)
    assert main(["doctor"]) == 1
    assert "broken training" in (shown := capsys.readouterr().out) and "no kernel image" in shown


@pytest.mark.heavy
def test_a_run_that_resumes_with_other_bits_is_broken(monkeypatch):
    run = self_test._train

    def other(out, stop=None):
        run(out, stop)
        if out.name == "stopped" and stop is None:
            path = out / "model.safetensors"
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)

    monkeypatch.setattr(self_test, "_train", other)
    (finding,) = self_test.training()
    assert finding.status == "broken" and "OTHER bits" in finding.value
