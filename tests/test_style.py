"""The house rules that a program can hold: one-way imports, quick start, documented modules, clean ruff and mypy.

A finding of ruff or mypy is a failed test like any other, so that one command and one exit code say it all.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "netlab"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Every stage, and the stages that it may import from besides its own modules (netlab.errors and netlab.refs: everybody).
#
#     kube  --> dataplane --+
#       |                   v
#       |    linux <-----  match
#       v      |            |
#     trace <--+------------+       trace --> render --> serve --> cli
#
STAGES: dict[str, set[str]] = {
    "errors": {"refs"},
    "refs": set(),
    "linux": set(),
    "kube": {"linux.addr"},
    "dataplane": {"kube", "linux"},
    "match": {"linux"},
    "trace": {"match", "linux", "dataplane", "kube"},
    "lab": {"trace", "linux", "dataplane", "kube"},
    "reach": {"trace", "linux", "dataplane", "kube"},
    "bench": {"lab", "trace", "match", "linux", "dataplane", "kube"},
    "render": {"trace", "reach", "bench", "linux"},
    "learn": {"render", "trace", "linux", "kube"},
    "serve": {"render", "reach", "trace", "linux", "dataplane", "kube"},
    "cli": {"linux", "kube", "dataplane", "match", "trace", "reach", "bench", "render", "lab", "serve"},
}
EVERYBODY = {"errors", "refs"}

# Slow to import; each belongs to a command that needs it, none to the start of every command.
HEAVY = (
    "numba", "numpy", "scapy", "networkx", "pyroute2", "yaml", "rich", "cyclopts", "msgspec", "asyncio", "starlette", "uvicorn",
)  # fmt: skip

# What only some machine knows; the names of package registries' hosts. In pieces, so that this file passes its own test.
FORBIDDEN = ("/wo" + "rk/", "/tm" + "p/", "../sha" + "red", "pyp" + "i.org", "pythonho" + "sted", "/ro" + "ot/")


def stage_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def dotted(path: Path) -> str:
    """`linux/text/iproute.py` -> "linux.text.iproute"."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every netlab module that a file imports anywhere, also lazily or for types: (line, "linux.addr")."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            # `from netlab.kube import load` may import a module: it is judged as netlab.kube.load
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("netlab."):
                yield node.lineno, name.removeprefix("netlab.")


def allowed(importer: str, imported: str) -> bool:
    stage, other = importer.split(".")[0], imported.split(".")[0]
    if other == "__version__" or (stage != other and other in EVERYBODY and stage not in EVERYBODY):
        return True
    if stage == other:
        # the readers and writers of text stand on the values, never the other way
        return not (importer.startswith("linux.") and not importer.startswith("linux.text") and imported.startswith("linux.text"))
    return any(imported == may or imported.startswith(may + ".") for may in STAGES[stage])


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_data_flows_one_way(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        assert list(imports(path)) == []
        return
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}" for line, name in imports(path) if not allowed(dotted(path), name)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("importer", "imported", "verdict"),
    [
        ("linux.route", "linux.addr.Ip", True),
        ("linux.route", "linux.text.iproute", False),
        ("linux.text.iproute", "linux.route.Route", True),
        ("linux.rules", "refs.Ref", True),
        ("linux.rules", "kube.objects", False),
        ("kube.load", "linux.addr.ip", True),
        ("kube.load", "linux.address", False),
        ("kube.load", "linux.netns.Netns", False),
        ("errors", "refs.Ref", True),
        ("refs", "errors.InputError", False),
        ("match.naive", "trace.steps", False),
        ("trace.query", "dataplane.build.build", True),
        ("trace.query", "render.text", False),
        ("render.text", "kube.cluster", False),
        ("cli.main", "__version__", True),
    ],
)
def test_the_judge_of_imports_can_say_no(importer: str, imported: str, verdict: bool) -> None:
    assert allowed(importer, imported) is verdict


def test_every_stage_has_its_place() -> None:
    found = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert found - {"__init__", "__pycache__"} == set(STAGES)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text, f"{path}: no docstring"
    lines = len(text.splitlines())
    assert lines <= 20, f"{path}: {lines} lines are an essay, not a docstring"  # 3 to 10, and a drawing where boxes are wired


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_examples_in_docstrings_run(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    failed, _ = doctest.testmod(module)
    assert failed == 0  # doctest has printed what differs


def test_starting_imports_nothing_heavy() -> None:
    code = "import sys, netlab.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "netlab.cli.main" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_the_version_needs_no_library() -> None:
    code = "import sys; from netlab.cli.main import main; main(['--version']); print(*sys.modules)"
    version, loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert version.startswith("netlab ")
    assert [name for name in HEAVY if name in loaded.split()] == []


def tracked() -> list[Path]:
    """The project's files: what git knows, or in an unpacked archive everything that is not made by tools."""
    git = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if git.returncode == 0 and git.stdout:
        return [p for name in git.stdout.split("\0") if name and (p := ROOT / name).is_file()]
    made = {".venv", ".git", "build", "dist", "__pycache__"}
    return [p for p in ROOT.rglob("*") if p.is_file() and not made & set(p.parts) and "_cache" not in str(p)]


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    found = []
    for path in tracked():
        text = path.read_bytes().decode(errors="replace")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word in text]
    assert found == []


@pytest.mark.parametrize("tool", [["ruff", "check", "--no-cache", "."], ["mypy"]], ids=["ruff", "mypy"])
def test_clean(tool: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
