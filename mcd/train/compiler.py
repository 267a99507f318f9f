"""What torch.compile needs of the machine, told before it is needed."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from mcd.errors import MissingCompiler


def check_compiler() -> None:
    """Raise MissingCompiler when there is no C++ compiler, or no Python.h, for the kernels that torch.compile writes
    for CPUs. It would say so itself in the first step, in a page of traceback.
    """
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        lacks, mend = f"a C++ compiler, and {compiler} is not found", "g++"
    elif not Path(sysconfig.get_path("include"), "Python.h").is_file():
        lacks, mend = "Python.h, the headers of Python", "python3-dev"
    else:
        return
    raise MissingCompiler(
        f"--compile: needs {lacks}; install it (on Debian and Ubuntu: apt install {mend}) or give --no-compile"
    )
