"""Build the distribution and use it where the source is not: `make dist-check`.

    python dev/check_dist.py --out DIR          with the dependencies of this environment, in seconds
    python dev/check_dist.py --full --out DIR   with all that pip installs into an empty environment, in minutes

Both build sdist and wheel (the wheel from the sdist), compare the wheel with the package file by file, install it into
a new virtual environment and draw text there. By default the build backend and the dependencies are those of the
environment that runs this; so only --full sees a dependency that pyproject.toml does not name. There, every command
must also explain itself, or name the extra that it lacks. What follows `--` are options of pip.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ("mcd", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
PASSED_ON = ("HOME", "PATH", "LANG", "TMPDIR")


def built(folder: Path, isolated: bool) -> Path:
    """The wheel, next to its sdist in `folder`, made from a copy of the source, where no older build lies about."""
    with tempfile.TemporaryDirectory() as place:
        for name in SOURCE:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(place) / name)
        options = [] if isolated else ["--no-isolation"]
        run([sys.executable, "-m", "build", *options, "--outdir", folder, place], cwd=place)
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_content(wheel: Path) -> None:
    """Raise SystemExit unless the wheel holds the files of the package, and next to them what describes it alone."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        about = {name.split(".dist-info/")[1] for name in archive.namelist() if ".dist-info/" in name}
    files = (path.relative_to(ROOT) for path in (ROOT / "mcd").rglob("*") if path.is_file())
    wanted = {path.as_posix() for path in files if "__pycache__" not in path.parts}
    if held != wanted:
        raise SystemExit(f"{wheel.name}: lacks {sorted(wanted - held)}, and should not hold {sorted(held - wanted)}")
    described = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt"}
    licences = {f"licenses/{name}" for name in ("LICENSE", "mcd/assets/minilm.NOTICE", "mcd/assets/sotu.NOTICE")}
    if about != described | licences:
        raise SystemExit(f"{wheel.name}: is described by {sorted(about)}")


def installed(wheel: Path, place: Path, full: bool, pip_flags: list[str]) -> Path:
    """The folder of commands of a new environment with the wheel in it."""
    venv.create(place, symlinks=True)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--disable-pip-version-check", *pip_flags]
    if full:
        run([*pip, "-c", ROOT / "constraints.txt", wheel])
    else:
        run([*pip, "--no-deps", "--no-index", wheel])
        packages = next((place / "lib").glob("python*/site-packages"))
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python.parent


def check_use(commands: Path, full: bool) -> None:
    """Raise SystemExit unless the installed package works: away from the source, and without this process's paths."""
    with tempfile.TemporaryDirectory() as elsewhere:
        place = run([commands / "python", "-c", "import mcd; print(mcd.__file__)"], cwd=elsewhere).strip()
        if not Path(place).is_relative_to(commands.parent):
            raise SystemExit(f"mcd is not that of the wheel, but {place}")
        listed = run([commands / "mcd", "--help"], cwd=elsewhere)
        text = run([commands / "mcd", "sample", "demo", "--num", "1", "--steps", "2", "--seed", "3"], cwd=elsewhere)
        if not text.strip():
            raise SystemExit("mcd sample demo: wrote nothing")
        names = [line.split()[0] for line in listed.split("commands:\n")[1].split("\n\n")[0].splitlines()]
        for name in names if full else ():
            done = subprocess.run([commands / "mcd", name, "--help"], env=environment(), capture_output=True, text=True)
            told = done.returncode == 2 and "pip install 'mcd-lm[" in done.stderr
            if done.returncode != 0 and not told:
                raise SystemExit(f"mcd {name} --help: {done.stderr[-2000:]}")


def environment() -> dict[str, str]:
    """The variables that an installed command gets: none of Python's."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


def run(command: list[object], cwd: object = None) -> str:
    """What a command prints. Raises SystemExit with what it says when it fails."""
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="an empty or new folder for wheel and sdist")
    parser.add_argument("--full", action="store_true", help="install every dependency too")
    parser.add_argument("pip_flags", nargs="*", help="options of pip install")
    args = parser.parse_args()
    out = args.out.resolve()
    if out.is_dir() and any(out.iterdir()):
        raise SystemExit(f"{out}: is not empty; remove it")
    started = time.monotonic()
    wheel = built(out, isolated=args.full)
    check_content(wheel)
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, built in {time.monotonic() - started:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as place:
        started = time.monotonic()
        commands = installed(wheel, Path(place) / "venv", args.full, args.pip_flags)
        files = (path.lstat().st_size for path in commands.parent.rglob("*") if path.is_file())
        print(f"installed: {sum(files) / 1e6:,.0f} MB in {time.monotonic() - started:.0f} s", flush=True)
        started = time.monotonic()
        check_use(commands, args.full)
        print(f"used: in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
