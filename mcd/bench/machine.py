"""What the numbers of a benchmark depend on beside the code."""

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mcd.machine import usable_memory
from mcd.train.run_folder import environment


def machine() -> dict[str, Any]:
    """Versions, processor, memory, threads and the time; plain JSON."""
    facts = environment() | {"system": platform.system(), "cpu": _cpu(), "time": datetime.now(UTC).isoformat()}
    memory, _ = usable_memory()
    return facts if memory is None else facts | {"memory_bytes": memory}


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.processor()
    lines = (line for line in cpuinfo.read_text().splitlines() if line.startswith("model name"))
    return next(lines, "").partition(": ")[2] or platform.processor()
