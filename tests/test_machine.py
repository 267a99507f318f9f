"""Limits of containers as the kernel writes them."""

import os

import pytest

from mcd import machine


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Stands in for /sys/fs/cgroup and /proc/self/cgroup."""

    def make(own, files):
        for name, text in files.items():
            (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "sys" / name).write_text(text)
        (tmp_path / "own").write_text(own)
        monkeypatch.setattr(machine, "CGROUPS", tmp_path / "sys")
        monkeypatch.setattr(machine, "OWN_CGROUP", tmp_path / "own")

    return make


def test_version_2_the_lowest_quota_on_the_way_up_counts(cgroup):
    files = {"cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n", "a/b/cpu.max": "400000 100000\n"}
    cgroup("0::/a/b\n", files | {"a/memory.max": f"{2**30}\n", "a/b/memory.max": "max\n"})
    assert machine.usable_cores()[1] == 1.5 and machine.usable_memory()[1] == 2**30


def test_version_1(cgroup):
    files = {"cpu/d/cpu.cfs_quota_us": "50000\n", "cpu/d/cpu.cfs_period_us": "100000\n"}
    own = "5:memory:/d\n4:cpu,cpuacct:/d\n"
    cgroup(own, files | {"memory/d/memory.limit_in_bytes": "9223372036854771712\n"})
    assert machine.usable_cores()[1] == 0.5 and machine.usable_memory()[1] is None
    cgroup(own, {"cpu/d/cpu.cfs_quota_us": "-1\n"})
    assert machine.usable_cores()[1] is None


def test_no_control_group(cgroup):
    cgroup("", {})
    assert machine.usable_cores()[1] is None and machine.usable_memory()[1] is None


def test_threads_sleep_on_few_cores_where_the_user_has_not_chosen(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine, "usable_cores", lambda: (64, None))
    assert not machine.let_threads_sleep() and "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.setattr(machine, "usable_cores", lambda: (2, None))
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    assert not machine.let_threads_sleep() and "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert not machine.let_threads_sleep() and os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert machine.let_threads_sleep() and os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
