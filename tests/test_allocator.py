"""What is freed is kept: counted in page faults, in a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

from mcd.allocator import keep_freed_blocks

GLIBC = sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"
SCRIPT = """
import resource
from mcd.allocator import keep_freed_blocks

told = keep_freed_blocks()
bytearray(64 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    bytearray(64 << 20)  # written and freed
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment):
    """Whether malloc was told, and the page faults of taking a block of 64 MiB eight times over."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    for name in ("GLIBC_TUNABLES", "LD_PRELOAD"):
        clean.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=clean | environment, capture_output=True, text=True, check=True
    )
    told, count = done.stdout.split()
    return told == "True", int(count)


@pytest.mark.heavy
@pytest.mark.skipif(not GLIBC, reason="glibc's malloc alone is told")
def test_a_freed_block_costs_no_page_faults_the_second_time():
    told, kept = faults()
    untold, lost = faults(MALLOC_ARENA_MAX="8")  # a choice of the user's, which changes nothing here
    assert told and not untold
    assert kept < 20 < lost


@pytest.mark.parametrize(
    "name, value",
    [
        ("MALLOC_TRIM_THRESHOLD_", "100000"),
        ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"),
        ("LD_PRELOAD", "libjemalloc.so"),
    ],
)
def test_the_users_own_choice_stands(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert not keep_freed_blocks()


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_blocks()
