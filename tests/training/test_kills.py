"""kill -9, the short form: a distillation killed in five phases, a preparation in one (tests/soak/kills.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_in_every_phase_and_started_again_is_the_same_run():
    script = [sys.executable, str(ROOT / "tests" / "soak" / "kills.py"), "--short"]
    done = subprocess.run(script, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert result["identical"] == result["runs"] == 2, result["records"]
    assert result["kills"] >= 4 and len(result["phases"]) >= 3, result["phases"]
    assert done.returncode == 0
