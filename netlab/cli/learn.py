"""`netlab learn`: the lessons, and one of them opened as a notebook."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from netlab.cli.flags import Whole, emit
from netlab.errors import InputError

TITLE = re.compile(r'"""Lesson (\d+): (.*?)\. `netlab learn')


def learn(
    number: Annotated[Whole | None, Parameter(help="Which lesson to open; without it they are listed.")] = None,
    /,
    *,
    edit: Annotated[bool, Parameter(negative=(), help="With its code, to change it.")] = False,
) -> int:
    """Lessons to run: predict, look, change one thing.

    Each is a marimo notebook that asks a question, traces a packet on a cluster that netlab carries, and checks what you think.

    For example:
      netlab learn
      netlab learn 2
    """
    lessons = found()
    if number is None:
        emit("\n".join(f"{n:2}  {title}" for n, (title, _) in lessons.items()))
        return 0
    if number not in lessons:
        raise InputError(f"there is no lesson {number}", hint=f"`netlab learn` lists 1 to {max(lessons)}")
    from importlib.util import find_spec

    if find_spec("marimo") is None:
        raise InputError("lessons are marimo notebooks, and marimo is not installed", hint="pip install 'netlab-k8s[notebook]'")
    command = [sys.executable, "-m", "marimo", "edit" if edit else "run", str(lessons[number][1])]
    return subprocess.run(command, check=False).returncode


def found() -> dict[int, tuple[str, Path]]:
    """The lessons by number: title and file; in a checkout they stand beside the package, in a wheel inside it."""
    import netlab

    package = Path(netlab.__file__).resolve().parent
    for folder in (package / "_notebooks", package.parent / "notebooks"):
        files = sorted(folder.glob("*.py"))
        if files:
            read = ((TITLE.match(file.read_text(encoding="utf-8")), file) for file in files)
            return {int(match[1]): (match[2], file) for match, file in read if match}
    raise FileNotFoundError(f"{package / '_notebooks'} is missing: install netlab-k8s again")
