"""The shape of the package (docs/architecture.md): imports, length, documentation, import time."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import jaxtyping
import pytest

import mcd

PACKAGE = Path(mcd.__file__).parent
ROOT = PACKAGE.parent
MODULES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}

ROOMS = (
    "process",
    "model",
    "checkpoints",
    "data",
    "objective",
    "sampler",
    "training",
    "eval",
    "api",
    "serve",
    "play",
    "report",
    "reproduce",
    "bench",
    "cli",
)
"""From the ground up (docs/architecture.md): a module may import its own room and those before it, at the top or inside
a function."""

FLOORS = ("data", "data.languages", "data.prepare", "eval", "eval.laboratory")
"""Rooms of two floors: the lower one knows nothing of the upper."""

NEVER = {
    "process": {"model"},
    "data": {"process", "model", "checkpoints"},
    "objective": {"checkpoints", "data"},
    "sampler": {"checkpoints", "data", "objective"},
    "training": {"sampler"},
    "bench": {"reproduce"},
}
"""What a room does not need although it lies below."""

SHARED = {"files", "hub_access", "errors", "progress", "machine", "allocator", "options", "table"}
"""Top-level modules that every room but `process` may import: they import each other alone."""


def imported(tree):
    """Dotted names of all imports in a module, wherever they stand; `from a import b` counts as a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(path):
    parts = Path(path).parts
    return parts[1] if len(parts) > 2 else ""


@pytest.mark.parametrize("path", MODULES)
def test_imports_go_one_way(path):
    own = {name.split(".")[1] for name in imported(MODULES[path]) if name.startswith("mcd.")} - {"__version__"}
    room = package_of(path)
    if room:
        below = set(ROOMS[: ROOMS.index(room) + 1]) - NEVER.get(room, set())
        allowed = below | (SHARED if room != "process" else set())
        assert own <= allowed, f"{room} must not import {own - allowed}"
    elif path in {f"mcd/{name}.py" for name in SHARED}:
        assert own <= SHARED
    elif path not in ("mcd/__main__.py", "mcd/__init__.py"):  # the fronts
        assert "cli" not in own


@pytest.mark.parametrize("path", MODULES)
def test_lower_floors_do_not_know_the_upper(path):
    floor = ".".join(Path(path).parts[1:-1])
    room = package_of(path)
    if floor in FLOORS:
        above = [
            f"mcd.{other}."
            for other in FLOORS
            if other.split(".")[0] == room and FLOORS.index(other) > FLOORS.index(floor)
        ]
        assert not [name for name in imported(MODULES[path]) if name.startswith(tuple(above))]


def test_no_two_modules_import_each_other():
    """No circle, of any length, at the top of modules or inside functions."""
    names = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in MODULES}
    graph = {
        name: {found for one in imported(MODULES[path]) for found in (one, one.rpartition(".")[0]) if found in names}
        - {name, "mcd"}
        for name, path in names.items()
    }
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_room_is_in_the_rule():
    assert {package_of(path) for path in MODULES} - {""} == set(ROOMS)


def test_no_room_is_above_a_fifth():
    """A room that holds more than a fifth of the lines wants dividing."""
    lines = Counter()
    for path in MODULES:
        lines[package_of(path)] += len((ROOT / path).read_text().splitlines())
    assert {room: count for room, count in lines.items() if count > lines.total() / 5} == {}


@pytest.mark.parametrize("path", [path for path in MODULES if package_of(path) == "process"])
def test_the_mathematics_needs_torch_and_nothing_else(path):
    foreign = {name.split(".")[0] for name in imported(MODULES[path])} - sys.stdlib_module_names
    assert foreign <= {"torch", "mcd"}


@pytest.mark.parametrize("path", MODULES)
def test_modules_are_short(path):
    assert len((ROOT / path).read_text().splitlines()) <= 300


DOCUMENTED = {
    (owner.name, node.name)
    for tree in MODULES.values()
    for owner in ast.walk(tree)
    if isinstance(owner, ast.ClassDef)
    for node in owner.body
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node)
}
"""Every (class, method) with a docstring."""


def undocumented(path):
    """Public classes, functions and methods without a docstring.

    An override may leave it to the method of its base, and the `main` of a command to the module.
    """
    for node in MODULES[path].body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node) and node.name != "main":
                yield node.name
            if isinstance(node, ast.ClassDef):
                bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                        inherits = any((base, method.name) in DOCUMENTED for base in bases)
                        if not ast.get_docstring(method) and not inherits:
                            yield f"{node.name}.{method.name}"


@pytest.mark.parametrize("path", MODULES)
def test_what_is_public_is_documented(path):
    assert list(undocumented(path)) == []
    assert ast.get_docstring(MODULES[path]) or not MODULES[path].body


HEAVY = ("transformers", "datasets", "gradio", "fastapi", "greenlet", "matplotlib", "lightning_fabric")


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)


@pytest.mark.heavy
def test_import_is_silent_and_light():
    """`import mcd` brings neither torch nor numpy, and the first use of a model no optional library; it prints nothing.

    How long it takes is measured by `mcd bench`, not here: a slow or busy machine is no fault.
    """
    code = f"""
import sys
import mcd
print([name for name in {("torch", "numpy", *HEAVY)} if name in sys.modules], file=sys.stderr)
mcd.Denoiser, mcd.from_pretrained
import torch
print([name for name in {HEAVY} if name in sys.modules], torch.cuda.is_initialized(), file=sys.stderr)
"""
    done = run(code)
    assert done.stdout == "" and done.stderr.splitlines() == ["[]", "[] False"]


def test_annotations_are_checked_at_run_time():
    from mcd.model.dit import DiTConfig
    from mcd.model.targets import tempered

    with pytest.raises(jaxtyping.TypeCheckError, match="logits"):
        tempered([0.0, 1.0], 1.0)
    with pytest.raises(jaxtyping.TypeCheckError, match="hidden"):
        DiTConfig(rows=8, hidden="16")
