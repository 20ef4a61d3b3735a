"""User-mode Linux: a kernel that runs as an ordinary process, where the running one lacks what a network needs.

    netlab --- FIFO, one line a request ---> /dev/tty1 of UML: uml_init.sh, process 1
           <-- stdout, stderr, status as files of the scratch directory (hostfs) ---

Law: the commands inside see the host's files, working directory and environment, are root there, and reach no network but their
own; what they write goes to memory (uml_init.sh: an overlay), and to the host only through one scratch directory. The processes
of UML end with netlab, also when it is killed. It does not choose: umlchoice.py does.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from netlab.errors import InputError

KERNEL = "linux.uml"
MODULES = Path("/usr/lib/uml/modules")
MEMORY = 1024  # MiB; what is not touched costs nothing
BOOT_SECONDS = 60.0
PRELOADED = ("br_netfilter",)  # everything else is loaded by the kernel when somebody asks for it

# What runs inside or around UML -> its Debian package.
_TOOLS = {
    KERNEL: "user-mode-linux",
    "modprobe": "kmod",
    "insmod": "kmod",
    "ip": "iproute2",
    "unshare": "util-linux",
    "setpriv": "util-linux",
}
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # not on the PATH of an ordinary user, who is root inside
_COVERED = ("/proc", "/sys", "/dev", "/run")  # UML has its own

# Where a PID namespace is to be had, its end is the end of all that is in it. Elsewhere the shell ends UML's process group, which
# UML makes by itself (setsid). UML is not process 1 there: abort(), its way out of a panic, does nothing for process 1.
_WATCH = """trap 'kill -s KILL -- "-$uml" "$uml"' TERM; "$@" & uml=$!; wait "$uml" """


def missing() -> list[str]:
    """The Debian packages that user-mode Linux needs and this machine lacks.

    >>> set(missing()) <= {"user-mode-linux", "kmod", "iproute2", "util-linux"}
    True
    """
    path = os.environ.get("PATH", "") + ":" + _SBIN
    packages = {package for tool, package in _TOOLS.items() if shutil.which(tool, path=path) is None}
    if not MODULES.is_dir():
        packages.add("user-mode-linux")
    return sorted(packages)


def run_in_uml(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdin: bytes = b"",
    stdout: BinaryIO | None = None,
    stderr: BinaryIO | None = None,
    timeout: float | None = None,
    memory: int = MEMORY,
    modules: Sequence[str] = PRELOADED,
) -> subprocess.CompletedProcess[bytes]:
    """Boot user-mode Linux, run one command in it, and end it.

    Parameters
    ----------
    argv : sequence of str
        The command and its arguments; looked up in the PATH of `env`.
    env : mapping, optional
        Its whole environment (default: this process's).
    cwd : path, optional
        Its working directory (default: this process's).
    stdin : bytes
        What it reads from its standard input.
    stdout, stderr : binary file, optional
        Where its output goes while it runs; without one, it is collected and returned.
    timeout : float, optional
        Seconds that the command may take after the boot.
    memory : int
        MiB that UML may use.
    modules : sequence of str
        Kernel modules to load at boot.

    Returns
    -------
    subprocess.CompletedProcess
        `returncode` as a shell tells it: 126 not executable, 127 not found, 128 + n ended by signal n.

    Raises
    ------
    InputError
        Packages are missing, UML does not boot here, the command was not done in time.
    """
    with Uml(memory=memory, modules=modules) as uml:
        return uml.run(argv, env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr, timeout=timeout)


class Uml:
    """A running user-mode Linux; as a context manager it ends with the block.

    Parameters
    ----------
    memory : int
        MiB.
    modules : sequence of str
        Kernel modules to load at boot.
    directory : path, optional
        An existing empty directory to share with UML; `Uml.attach` finds it there. Default: a new one, removed in the end.
    stay : bool
        Do not end UML with the thread that started it: `close` does, by whoever calls it.
    """

    def __init__(
        self,
        *,
        memory: int = MEMORY,
        modules: Sequence[str] = PRELOADED,
        directory: str | os.PathLike[str] | None = None,
        stay: bool = False,
    ) -> None:
        packages = missing()
        if packages:
            raise InputError("user-mode Linux is not installed", hint=f"apt-get install {' '.join(packages)}")
        self._own = directory is None
        self.directory = Path(_scratch() if directory is None else directory).resolve()
        if any(character.isspace() or character in '",' for character in str(self.directory)):
            raise InputError(
                f"user-mode Linux cannot use the directory {str(self.directory)!r}", hint="its name has spaces, quotes or commas"
            )
        self._process: subprocess.Popen[bytes] | None = None
        self._pid, self._signal = 0, signal.SIGKILL
        try:
            self._boot(memory, modules, stay)
        except BaseException:
            self.close()
            raise

    @classmethod
    def attach(cls, directory: str | os.PathLike[str]) -> Uml:
        """The user-mode Linux that another process started in `directory` with `stay`."""
        self = cls.__new__(cls)
        self.directory = Path(directory).resolve()
        self._own = False
        self._process = None
        try:
            state = json.loads((self.directory / "process").read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"no user-mode Linux in {directory}") from error
        self._pid, self._signal = state["pid"], signal.Signals(state["signal"])
        if _started(self._pid) != state["started"]:
            raise InputError(f"the user-mode Linux in {directory} has ended", hint=_last_lines(self.directory / "console"))
        return self

    def __enter__(self) -> Uml:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process that ends with it."""
        return self._pid

    def alive(self) -> bool:
        """Is it still running?"""
        if self._process is not None:
            return self._process.poll() is None
        return _started(self._pid) is not None

    def close(self) -> None:
        """End it and everything that runs in it, at once; what it shared with the host is removed. Twice is once."""
        if self._pid and self.alive():
            os.kill(self._pid, self._signal)
            if self._process is not None:
                self._process.wait()
            else:
                _wait(lambda: not self.alive(), 10)
        self._pid = 0
        if self._own:
            shutil.rmtree(self.directory, ignore_errors=True)

    # -- boot ----------------------------------------------------------------------------------------------------------

    def _boot(self, memory: int, modules: Sequence[str], stay: bool) -> None:
        shutil.copyfile(Path(__file__).with_name("uml_init.sh"), self.directory / "init")
        (self.directory / "init").chmod(0o700)
        os.mkfifo(self.directory / "requests", 0o600)
        requests = os.open(self.directory / "requests", os.O_RDWR)  # both ends: UML never reads the end of it
        namespaces = _namespaces()
        self._signal = signal.SIGTERM if namespaces is None else signal.SIGKILL
        argv = [] if stay else ["setpriv", "--pdeathsig", self._signal.name.removeprefix("SIG")]
        argv += namespaces or []
        argv += ["/bin/sh", "-c", _WATCH, "sh", KERNEL, f"mem={memory}M", "umid=netlab", f"uml_dir={self.directory}/"]
        argv += ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={self.directory}/init"]
        argv += [f"con1=fd:{requests},null", "con0=null,fd:1", "con=null", "ssl=null", "quiet", "loglevel=4", "panic=-1"]
        argv += [f"NETLAB_MODULES={','.join(modules)}"]
        env = {"PATH": os.environ.get("PATH", "") + ":" + _SBIN, "TMPDIR": _memory_directory(memory)}
        try:
            with open(self.directory / "console", "wb") as console:
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    env=env,
                    cwd="/",
                    pass_fds=[requests],
                    start_new_session=True,
                )
        finally:
            os.close(requests)
        self._pid = self._process.pid
        state = {"pid": self._pid, "started": _started(self._pid), "signal": self._signal}
        (self.directory / "process").write_text(json.dumps(state))
        ready = self.directory / "ready"
        if not _wait(lambda: ready.exists() or not self.alive(), BOOT_SECONDS) or not ready.exists():
            how = "ended while it booted" if not self.alive() else f"has not booted within {BOOT_SECONDS:g} s"
            raise InputError(f"user-mode Linux {how}", hint=_last_lines(self.directory / "console"))

    # -- commands ------------------------------------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdin: bytes = b"",
        stdout: BinaryIO | None = None,
        stderr: BinaryIO | None = None,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command inside; see `run_in_uml`. Several may run at once. Interrupted or out of time, it is killed."""
        where = Path(os.getcwd() if cwd is None else cwd).absolute()
        if any(where.is_relative_to(covered) for covered in _COVERED):
            raise InputError(f"the directory {where} does not exist in user-mode Linux", hint="change to another one first")
        place = Path(tempfile.mkdtemp(prefix="run-", dir=self.directory))
        try:
            (place / "stdin").write_bytes(stdin)
            (place / "command").write_text(_script(argv, dict(os.environ if env is None else env), where))
            streams = [_Stream(place / "stdout", stdout), _Stream(place / "stderr", stderr)]
            status = self._perform(place, streams, timeout, argv)
            out, err = (stream.finish() for stream in streams)
            return subprocess.CompletedProcess(list(argv), status, out, err)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _perform(self, place: Path, streams: list[_Stream], timeout: float | None, argv: Sequence[str]) -> int:
        status = place / "status"

        def step() -> bool:
            done = _ends_in_newline(status) or not self.alive()  # asked before the streams are read: nothing is missed
            for stream in streams:
                stream.forward()
            return done

        self._request(f"run {place.name}\n")
        try:
            in_time = _wait(step, timeout)
        except BaseException:
            self._kill(place, status)
            raise
        if not in_time:
            self._kill(place, status)
            step()
            raise InputError(f"{argv[0]} was not done within {timeout:g} s in user-mode Linux, and was killed")
        if not status.exists():
            raise InputError(
                f"user-mode Linux ended while it ran {argv[0]}",
                hint=_last_lines(self.directory / "console") or "it may need more memory",
            )
        return int(status.read_text())

    def _kill(self, place: Path, status: Path) -> None:
        with contextlib.suppress(InputError):
            self._request(f"kill {place.name}\n")
            _wait(lambda: status.exists() or not self.alive(), 5)

    def _request(self, line: str) -> None:
        try:
            fifo = os.open(self.directory / "requests", os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:  # ENXIO: nobody has the other end
            raise InputError("user-mode Linux has ended", hint=_last_lines(self.directory / "console")) from error
        try:
            os.write(fifo, line.encode())  # at once: shorter than PIPE_BUF
        finally:
            os.close(fifo)


class _Stream:
    """A growing file, read on to a sink or collected."""

    def __init__(self, path: Path, sink: BinaryIO | None) -> None:
        path.touch()
        self._file = path.open("rb")
        self._sink = sink
        self._collected: list[bytes] = []

    def forward(self) -> None:
        while piece := self._file.read(1 << 16):
            if self._sink is None:
                self._collected.append(piece)
            else:
                self._sink.write(piece)
                self._sink.flush()

    def finish(self) -> bytes | None:
        """All that was collected, or None where it went to a sink."""
        self.forward()
        self._file.close()
        return b"".join(self._collected) if self._sink is None else None


def _script(argv: Sequence[str], env: dict[str, str], cwd: Path) -> str:
    """A shell script that is the command: same working directory, this environment."""
    env["PATH"] = f"{env.get('PATH', '/usr/local/bin:/usr/bin:/bin')}:{_SBIN}"
    env["XDG_RUNTIME_DIR"] = "/run"
    env = {name: value for name, value in env.items() if name not in ("TMPDIR", "TMP", "TEMP")}  # may be one of _COVERED
    command = ["env", "-i", *(f"{name}={value}" for name, value in env.items()), *argv]
    return f'echo $$ >"${{0%/*}}/session"\ncd {shlex.quote(str(cwd))} || exit 126\nexec {shlex.join(command)}\n'


def _namespaces() -> list[str] | None:
    """How to start a process in a PID namespace that ends with it: as root, with a user namespace, or not at all (None)."""
    argv = ["unshare", "--pid", "--fork", "--kill-child=KILL"]
    if os.geteuid() != 0:
        argv += ["--user", "--map-current-user"]
    tried = subprocess.run([*argv, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return argv if tried.returncode == 0 else None


def _scratch() -> str:
    _tidy()
    return tempfile.mkdtemp(prefix="netlab-uml-")


def _tidy() -> None:
    """Remove the scratch directories whose owner was killed before it could do so."""
    for old in Path(tempfile.gettempdir()).glob("netlab-uml-*"):
        with contextlib.suppress(OSError, ValueError):  # another user's, or not yet complete
            state = json.loads((old / "process").read_text())
            if _started(state["pid"]) != state["started"]:
                shutil.rmtree(old, ignore_errors=True)


def _memory_directory(memory: int) -> str:
    """Where UML can keep its memory, an unlinked file that it maps and runs code from (arch/um/os-Linux/mem.c)."""
    tried = []
    for directory in dict.fromkeys(("/dev/shm", tempfile.gettempdir(), "/var/tmp")):
        with contextlib.suppress(OSError):
            about = os.statvfs(directory)
            free = about.f_bavail * about.f_frsize >> 20
            if about.f_flag & os.ST_NOEXEC:
                tried.append(f"{directory} is mounted noexec")
            elif free < memory:
                tried.append(f"{directory} has {free} MiB")
            elif os.access(directory, os.W_OK):
                return directory
    raise InputError(f"no room for the {memory} MiB of user-mode Linux", hint="; ".join(tried))


def _wait(done: Callable[[], bool], timeout: float | None) -> bool:
    """Ask every few milliseconds until it is done; False where the time is over first."""
    end = None if timeout is None else time.monotonic() + timeout
    pause = 0.002
    while not done():
        if end is not None and time.monotonic() >= end:
            return False
        time.sleep(pause)
        pause = min(pause * 1.2, 0.02)
    return True


def _started(pid: int) -> str | None:
    """When a process started (proc(5): stat, field 22): tells it from a later one of the same number. None: it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _ends_in_newline(path: Path) -> bool:
    try:
        return path.read_bytes().endswith(b"\n")
    except FileNotFoundError:
        return False


def _last_lines(console: Path) -> str:
    """What UML said last; after a panic, what it said before the dump of its registers."""
    try:
        said = console.read_text(errors="replace")
    except OSError:
        return ""
    before, panic, after = said.partition("Kernel panic")
    lines = (before + panic + after.partition("\n")[0]).splitlines()
    return "\n  ".join([line for line in lines if line.strip()][-6:])
