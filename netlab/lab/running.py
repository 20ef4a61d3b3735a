"""Labs that stay up: one folder per lab, in which the holder's socket, a description and a log lie.

    $XDG_RUNTIME_DIR/netlab/NAME/{door, lab.json, log}

Law: the holder is the truth. A folder whose holder does not answer is left over from a crash and is removed by whoever finds it;
so is one that was being made (it is locked meanwhile) when its maker was killed. Folders belong to one user and are closed to
others. Nothing here touches the network: host.py and holder.py do.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from netlab.errors import InputError, did_you_mean
from netlab.lab.host import Lab, enter_command
from netlab.lab.plan import Plan
from netlab.linux.netns import NetnsKind

DEFAULT_NAME = "lab"
_HINT = "set XDG_RUNTIME_DIR to a folder of your own"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?", re.ASCII)


class Description(msgspec.Struct, frozen=True, rename="camel"):
    """lab.json: what a lab is, for who comes later.

    `spaces` maps the Network's names to (file under /run/netns, kind), `aliases` hostNetwork pods to their nodes; `files` are
    the inputs as absolute paths (for stdin a copy in the folder), `flags` the overrides given with them, `digest` the plan's.
    """

    name: str
    pid: int
    started: float  # seconds since the epoch
    born: str  # start time of the process in clock ticks, so that a later process with the same id is not mistaken for it
    iptables: str
    spaces: dict[str, tuple[str, str]]
    aliases: dict[str, str] = {}
    files: tuple[str, ...] = ()
    flags: dict[str, str] = {}
    digest: str = ""
    notes: tuple[str, ...] = ()
    uml: str = ""  # the directory of its user-mode Linux (umllab.py); "": the running kernel

    def count(self, kind: NetnsKind) -> int:
        """How many namespaces of a kind it has."""
        return sum(1 for _, of in self.spaces.values() if of == kind.value)


def home() -> Path:
    """The folder of all labs of this user; made on first use.

    Raises
    ------
    InputError
        Somebody else owns it, or it cannot be made.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    found = Path(runtime) / "netlab" if runtime else Path(tempfile.gettempdir()) / f"netlab-{os.geteuid()}"
    try:
        found.mkdir(mode=0o700, parents=False, exist_ok=True)
        status = found.lstat()
    except OSError as error:
        raise InputError(f"labs cannot be kept in {found}: {error.strerror}", hint=_HINT) from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise InputError(f"{found} is not a folder of yours alone", hint=_HINT)
    return found


def check_name(name: str) -> str:
    """A lab's name, or InputError."""
    if _NAME.fullmatch(name) is None:
        raise InputError(f'"{name}" cannot be the name of a lab', hint="up to 32 of a-z, 0-9 and -, as in --name lab-2")
    return name


def labs() -> list[Description]:
    """The labs that are up; what is left of others is removed."""
    found = []
    for folder in sorted(home().iterdir()):
        description = _read(folder)
        if description is not None and _alive(description):
            found.append(description)
        elif description is not None or _is_orphan(folder):
            _clear(folder)
    return found


def _is_orphan(folder: Path) -> bool:
    """Nobody holds the lock of who makes a lab there (flock(2): it goes with the process)."""
    lock = _locked(folder)
    if lock is None:
        return False
    unfinished = _read(folder) is None
    os.close(lock)
    return unfinished


def _locked(folder: Path) -> int | None:
    """The folder, open and locked; None where somebody else has the lock, or it is gone."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.stat(folder)):
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _clear(folder: Path) -> None:
    """Remove what is left of a lab; a user-mode Linux whose maker was killed still runs."""
    from netlab.lab.uml import Uml

    with contextlib.suppress(InputError, OSError):
        Uml.attach(folder / "uml").close()
    shutil.rmtree(folder, ignore_errors=True)


def find(name: str) -> Description:
    """The lab of that name; InputError where none is up."""
    check_name(name)
    up = {lab.name: lab for lab in labs()}
    if name not in up:
        near = did_you_mean(name, up) or (f"up: {', '.join(up)}" if up else "`netlab lab up` makes one")
        raise InputError(f'no lab "{name}" is up', hint=near)
    return up[name]


def up(name: str, plan: Plan, describe: Mapping[str, object], stdin: str | None = None) -> Description:
    """Start a lab that stays.

    Parameters
    ----------
    name : str
        Its name.
    plan : Plan
        What to make.
    describe : mapping
        The fields of Description that only the caller knows: iptables, spaces, aliases, files, flags, digest, notes.
    stdin : str, optional
        What was read from standard input: kept, and named in `files` in place of "-".

    Raises
    ------
    InputError
        A lab of that name is up, or it cannot be made; nothing is left behind then.
    """
    lab = None
    with folder_for(name) as folder:
        try:
            if stdin is not None:
                (folder / "stdin.yaml").write_text(stdin)
            lab = Lab.start(plan, door=folder / "door", log=folder / "log")
            pid = int(lab.ask("pid")["pid"])
            files = tuple(str(folder / "stdin.yaml") if file == "-" else file for file in _texts(describe.get("files", ())))
            fields = {**describe, "files": files, "name": name, "pid": pid, "started": time.time(), "born": born(pid) or ""}
            description = msgspec.convert(fields, Description)
            (folder / "lab.json").write_bytes(msgspec.json.encode(description))
            lab.ask("stay")
            lab.leave()
        except BaseException:
            if lab is not None:
                lab.close()
            raise
    return description


def must_be_free(name: str) -> None:
    """InputError where a lab of that name is up, or the name is none."""
    check_name(name)
    if any(lab.name == name for lab in labs()):
        raise InputError(f'lab "{name}" is already up', hint=f"netlab lab down --name {name}, or another --name for a second one")


@contextmanager
def folder_for(name: str) -> Iterator[Path]:
    """A new folder for a lab; gone again where the making of the lab fails."""
    folder = home() / check_name(name)
    must_be_free(name)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise _being_made(name) from None
    except OSError as error:
        raise _not_kept(folder, error) from None
    lock = _locked(folder)
    if lock is None:
        raise _being_made(name)
    try:
        yield folder
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _not_kept(folder, error) from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _being_made(name: str) -> InputError:
    return InputError(f'lab "{name}" is being made by another process', hint="netlab lab status shows it when it is up")


def _not_kept(folder: Path, error: OSError) -> InputError:
    """A full disk, most often."""
    return InputError(f"the lab cannot be kept in {folder}: {error.strerror}", hint=_HINT)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(v) for v in value) if isinstance(value, (tuple, list)) else ()


def connect(description: Description) -> Lab:
    """Talk to a lab that is up, on the running kernel."""
    door = home() / description.name / "door"
    sock = socket.socket(socket.AF_UNIX)
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(door.parent)  # a socket's address holds 107 bytes only
        sock.connect(door.name)
    except OSError as error:
        sock.close()
        raise InputError(f'lab "{description.name}" does not answer: {error.strerror}', hint="netlab lab down") from None
    finally:
        os.fchdir(here)
        os.close(here)
    return Lab(sock, {name: file for name, (file, _) in description.spaces.items()})


def down(description: Description, patience: float = 5.0) -> None:
    """End a lab: all its processes and namespaces."""
    try:
        lab = connect(description)
    except InputError:
        pass
    else:
        try:
            lab.ask("end")
        except InputError:
            pass  # it ended before it could say so
        finally:
            lab.close()
    deadline = time.monotonic() + patience
    while _alive(description):
        if time.monotonic() > deadline:
            os.kill(description.pid, signal.SIGKILL)  # process 1 of its namespace: the others die with it
        time.sleep(0.005)
    shutil.rmtree(home() / description.name, ignore_errors=True)


def where(description: Description, text: str, namespace: str = "default") -> str:
    """The namespace (a name of the Network) that the user means: pod/web-0, node/node-1, default/web-0, web-0, internet."""
    spaces, aliases = description.spaces, description.aliases
    parts = text.split("/")
    match parts:
        case ["node" | "nodes" | "no", name]:
            wanted = [name]
        case ["pod" | "pods" | "po", name]:
            wanted = [f"{namespace}/{name}"]
        case [space, "pod" | "pods" | "po", name] | [space, name]:
            wanted = [f"{space}/{name}"]
        case [name]:
            wanted = [name, f"{namespace}/{name}"]
        case _:
            wanted = []
    for name in wanted:
        if name in spaces:
            return name
        if name in aliases:
            return aliases[name]
    known = [*spaces, *aliases]
    short = [name.removeprefix(f"{namespace}/") for name in known]
    near = did_you_mean(parts[-1], short) or did_you_mean(text, known)
    raise InputError(
        f'there is no "{text}" in lab "{description.name}"',
        hint=near or "there is " + ", ".join(short[:10]) + (" ..." if len(short) > 10 else ""),
    )


def command(description: Description, space: str, argv: list[str]) -> list[str]:
    """What to run so that `argv` runs inside a namespace of the lab, in the folder where the user is."""
    if description.uml:
        raise InputError(f'lab "{description.name}" stands in user-mode Linux', hint="netlab lab exec runs commands in it")
    return enter_command(description.pid, description.spaces[space][0], argv)


def _read(folder: Path) -> Description | None:
    try:
        return msgspec.json.decode((folder / "lab.json").read_bytes(), type=Description)
    except (OSError, msgspec.MsgspecError):
        return None


def born(pid: int) -> str | None:
    """When a process started: the 22nd field of /proc/PID/stat; None where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _alive(description: Description) -> bool:
    return born(description.pid) == description.born
