"""`netlab lab` inside user-mode Linux: the same command again, in there, where it finds the kernel that it needs.

Law: what runs inside is netlab itself with --kernel host, in the same folder and environment, so both kernels are asked by the
same code. A lab that stays keeps its UML in its folder (running.py); the description outside says how to reach it, and the end
of UML is the end of the lab. There is no terminal inside: commands read what standard input holds, and a screen is no use.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import msgspec

from netlab.errors import InputError
from netlab.lab import running
from netlab.lab.uml import Uml, run_in_uml

Output = tuple[BinaryIO, BinaryIO]


def again(arguments: Sequence[str]) -> list[str]:
    """This netlab with other arguments, as a command."""
    return [sys.executable, "-m", "netlab.cli.main", *arguments]


def once(arguments: Sequence[str], output: Output, *, stdin: str | None, modules: Sequence[str]) -> int:
    """Perform a command in a user-mode Linux of its own; its exit code."""
    out, err = output
    return run_in_uml(again(arguments), stdin=(stdin or "").encode(), stdout=out, stderr=err, modules=modules).returncode


def up(
    name: str, arguments: Sequence[str], describe: Mapping[str, object], *, stdin: str | None, modules: Sequence[str]
) -> tuple[running.Description, str]:
    """Boot a user-mode Linux that stays and make the lab in it.

    Parameters
    ----------
    name : str
        The lab's name.
    arguments : sequence of str
        The command that makes it, inside.
    describe : mapping
        As for `running.up`.
    stdin : str, optional
        What was read from standard input.
    modules : sequence of str
        Kernel modules to load.

    Returns
    -------
    tuple
        The lab, and what the command inside printed.

    Raises
    ------
    InputError
        A lab of that name is up, or it cannot be made; nothing is left behind then.
    """
    with running.folder_for(name) as folder:
        directory = folder / "uml"
        directory.mkdir(mode=0o700)
        uml = Uml(directory=directory, stay=True, modules=modules)
        try:
            made = uml.run(again(arguments), stdin=(stdin or "").encode())
            if made.returncode != 0:
                said = (made.stderr or b"").decode(errors="replace").removeprefix("netlab: error: ").strip()
                what, _, hint = said.partition("\n")
                raise InputError(what, hint=hint.strip() or "this was in user-mode Linux")
            fields = {
                **describe,
                "name": name,
                "pid": uml.pid,
                "started": time.time(),
                "born": running.born(uml.pid) or "",
                "uml": str(directory),
            }
            description = msgspec.convert(fields, running.Description)
            (folder / "lab.json").write_bytes(msgspec.json.encode(description))
        except BaseException:
            uml.close()
            raise
    return description, (made.stdout or b"").decode(errors="replace")


def perform(description: running.Description, arguments: Sequence[str], output: Output, *, stdin: bytes = b"") -> int:
    """A command of a lab that stands in user-mode Linux; its exit code."""
    out, err = output
    return Uml.attach(description.uml).run(again(arguments), stdin=stdin, stdout=out, stderr=err).returncode


def down(description: running.Description) -> None:
    """End the lab with its kernel."""
    Uml.attach(description.uml).close()
    shutil.rmtree(running.home() / description.name, ignore_errors=True)
