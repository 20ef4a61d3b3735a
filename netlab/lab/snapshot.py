"""Take what a node holds into a directory that `--observed` reads: the shell script beside this file, and who runs it.

Law: there is one script, snapshot.sh, whether netlab runs it here or somebody carries it to a node that has no Python. It
says by itself what it did, file by file, and its exit code is the command's.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from netlab.errors import InputError
from netlab.linux.netns import NetnsKind

SCRIPT = Path(__file__).with_name("snapshot.sh")


def script() -> str:
    """The POSIX shell script: `sh snapshot.sh [--force] DIR`, as root on the node."""
    return SCRIPT.read_text()


def take(directory: str, *, force: bool = False) -> int:
    """Run the script in the network namespace of this process; what it says goes to stdout and stderr.

    Parameters
    ----------
    directory : str
        Made if need be; has to be empty unless `force`.
    force : bool
        Replace the snapshot that is in the directory.

    Returns
    -------
    int
        The script's exit code: 0 done, 1 a tool failed and its file is missing, 2 nothing could be written.

    Raises
    ------
    InputError
        Not root: only root can read netfilter's rules.
    """
    if os.geteuid() != 0:
        raise InputError(
            "only root can read the rules of a node",
            hint=f"netlab snapshot --script | sudo sh -s -- {shlex.join(arguments(directory, force))}",
        )
    return subprocess.run(["sh", str(SCRIPT), *arguments(directory, force)], check=False).returncode


def take_from_lab(node: str, directory: str, *, name: str | None = None, force: bool = False) -> int:
    """Run the script in the network of a node of a lab that is up; as the user whose lab it is, no root is needed.

    Only the lab's network (and user) namespace is entered, not its mounts: DIR is where the user thinks it is.

    Parameters
    ----------
    node : str
        A node, as `netlab lab exec` takes it: node-1 or node/node-1.
    directory, force
        As for `take`.
    name : str, optional
        Which lab; the one without a name if left out.

    Returns
    -------
    int
        The script's exit code.

    Raises
    ------
    InputError
        No such lab is up, it has no such node, or `nsenter` is missing.
    """
    from netlab.lab import running

    lab = running.find(running.DEFAULT_NAME if name is None else name)
    space = running.where(lab, node)
    file, kind = lab.spaces[space]
    if kind != NetnsKind.NODE.value:
        nodes = [known for known, (_, of) in lab.spaces.items() if of == NetnsKind.NODE.value]
        raise InputError(f'"{node}" is no node: --observed reads what nodes hold', hint=f"nodes: {', '.join(nodes)}")
    mine = os.path.samestat(os.stat("/proc/self/ns/user"), os.stat(f"/proc/{lab.pid}/ns/user"))
    user = [] if mine else ["--user", "--preserve-credentials"]
    net = os.path.join(f"/proc/{lab.pid}/root", "run/netns", file)
    enter = ["nsenter", "--target", str(lab.pid), *user, f"--net={net}", "--"]
    try:
        return subprocess.run([*enter, "sh", str(SCRIPT), *arguments(directory, force)], check=False).returncode
    except FileNotFoundError:
        raise InputError("nsenter is not installed", hint="on Debian or Ubuntu: apt-get install util-linux") from None


def arguments(directory: str, force: bool) -> list[str]:
    """What the script is called with; a directory that begins with a dash is no option."""
    if not directory:
        raise InputError("DIR is empty", hint="name a directory to write to")
    return [*(["--force"] if force else []), os.path.join(".", directory) if directory.startswith("-") else directory]
