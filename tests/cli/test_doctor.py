"""`mcd doctor`: limits of containers as the kernel writes them, mends, exit status, and a self-test that can fail."""

import json

import pytest
import torch

from mcd import machine as limits
from mcd.cli import doctor_checks, self_test
from mcd.cli.main import main


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Stands in for /sys/fs/cgroup and /proc/self/cgroup."""

    def make(own, files):
        for name, text in files.items():
            (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "sys" / name).write_text(text)
        (tmp_path / "own").write_text(own)
        monkeypatch.setattr(limits, "CGROUPS", tmp_path / "sys")
        monkeypatch.setattr(limits, "OWN", tmp_path / "own")

    return make


def test_version_2_the_lowest_quota_on_the_way_up_counts(cgroup):
    files = {"cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n", "a/b/cpu.max": "400000 100000\n"}
    cgroup("0::/a/b\n", files | {"a/memory.max": f"{2**30}\n", "a/b/memory.max": "max\n"})
    assert limits.usable_cores()[1] == 1.5 and limits.usable_memory()[1] == 2**30


def test_version_1(cgroup):
    files = {"cpu/d/cpu.cfs_quota_us": "50000\n", "cpu/d/cpu.cfs_period_us": "100000\n"}
    own = "5:memory:/d\n4:cpu,cpuacct:/d\n"
    cgroup(own, files | {"memory/d/memory.limit_in_bytes": "9223372036854771712\n"})
    assert limits.usable_cores()[1] == 0.5 and limits.usable_memory()[1] is None
    cgroup(own, {"cpu/d/cpu.cfs_quota_us": "-1\n"})
    assert limits.usable_cores()[1] is None


def test_no_control_group(cgroup):
    cgroup("", {})
    assert limits.usable_cores()[1] is None and limits.usable_memory()[1] is None


@pytest.mark.parametrize("quota, mend", [(0.5, "--threads 1"), (None, "--threads 2"), (1.0, "")])
def test_threads_beyond_the_quota_are_told_with_the_mend(monkeypatch, quota, mend):
    monkeypatch.setattr(doctor_checks, "usable_cores", lambda: (2 if quota is None else 1, quota))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1 if quota == 1.0 else 3)
    (finding,) = doctor_checks.threads()
    assert mend in finding.mend and (finding.status == "ok") == (not mend)


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
    monkeypatch.setattr(doctor_checks, "CHECKS", ())
    monkeypatch.setattr(self_test, "sampling", lambda: iter(()))

    def raises(*_, **__):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(self_test, "_run", raises)
    assert main(["doctor"]) == 1
    assert "broken training" in (shown := capsys.readouterr().out) and "no kernel image" in shown


def test_a_run_that_resumes_with_other_bits_is_broken(monkeypatch):
    run = self_test._run

    def other(out, stop=None):
        run(out, stop)
        if out.name == "stopped" and stop is None:
            path = out / "model.safetensors"
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)

    monkeypatch.setattr(self_test, "_run", other)
    (finding,) = self_test.training()
    assert finding.status == "broken" and "OTHER bits" in finding.value
