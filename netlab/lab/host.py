"""A lab on the running kernel: start the holder in namespaces of its own, talk to it, end it.

Law: a Lab is a context manager; when it is closed, or its process dies, the kernel removes everything. What the machine
lacks (tools, permission to make namespaces, a kernel module) is an InputError that says what to install or switch on.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec

from netlab.errors import BugError, InputError
from netlab.lab.plan import AddNetns, Plan, Run, Sysctls, sysctl_paths
from netlab.linux.netns import Listener

_SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"

PACKAGES = {  # tool -> the Debian package that brings it
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "bridge": "iproute2",
    "ipset": "ipset",
    "ipvsadm": "ipvsadm",
    "iptables-legacy-restore": "iptables",
    "ip6tables-legacy-restore": "iptables",
    "iptables-nft-restore": "iptables",
    "ip6tables-nft-restore": "iptables",
    "nft": "nftables",
    "bird": "bird2",
}


class Shot(msgspec.Struct, frozen=True):
    """A packet to send for real: from a namespace (as the Network names it), with the socket a program would use.

    `src` None: the kernel chooses. `size`: bytes of the IP packet (UDP and ICMP). `timeout` in seconds. `hold`: stop after TCP's
    handshake, so that exactly three packets were sent.
    """

    ns: str
    protocol: int
    dst: str
    dport: int
    sport: int
    src: str | None = None
    size: int | None = None
    timeout: float = 1.0
    hold: bool = False


class Seen(msgspec.Struct, frozen=True):
    """What became of a Shot.

    `result`: "delivered", "connected" (held), "error", "timeout", "unsupported". `source` is the address that the sender's kernel
    chose; `owner`, `local` ("ip:port" that was reached) and `peer` (address that the receiver saw) come from the receiver, and
    are "" where it is a kernel (ping). `arrived` says that a datagram was received although no answer came back. `errno` with
    "timeout" is EPERM or EINVAL where the sender's own kernel dropped the packet.
    """

    result: str
    source: str = ""
    owner: str = ""
    local: str = ""
    peer: str = ""
    errno: str = ""
    icmp: tuple[int, int] | None = None
    icmp_from: str = ""
    arrived: bool = False
    id: int = 0


def missing_tools(plan: Plan) -> list[tuple[str, str]]:
    """The tools that the plan runs and this machine lacks, each with its Debian package."""
    path = os.environ.get("PATH", "") + _SBIN
    wanted = dict.fromkeys(["unshare", "nsenter", *(a.argv[0] for a in plan.actions if isinstance(a, Run))])
    return [(tool, PACKAGES.get(tool, tool)) for tool in wanted if shutil.which(tool, path=path) is None]


def require(tool: str, purpose: str) -> None:
    """InputError, with the package that brings it, where this machine lacks a tool."""
    if shutil.which(tool, path=os.environ.get("PATH", "") + _SBIN) is None:
        raise InputError(f"{purpose} needs {tool}", hint=f"on Debian or Ubuntu: apt-get install {PACKAGES.get(tool, tool)}")


def refusal(said: str) -> str:
    """What unshare(1) says, in clearer words where it is about a limit (unshare(2), ENOSPC).

    >>> refusal("unshare: unshare failed: No space left on device")
    'no more user namespaces are allowed (user.max_user_namespaces; 0 switches them off)'
    """
    if said.endswith("No space left on device"):
        return "no more user namespaces are allowed (user.max_user_namespaces; 0 switches them off)"
    return said


def unshare_command(user_namespace: bool | None = None) -> list[str]:
    """How to make the private namespaces; root needs no user namespace, but may have one."""
    own = os.geteuid() != 0 if user_namespace is None else user_namespace
    flags = "-Urnmp" if own else "-nmp"
    return ["unshare", flags, "--fork", "--kill-child", "--propagation", "private"]


def enter_command(pid: int, file: str, argv: Sequence[str]) -> list[str]:
    """How to run a command in a namespace of a lab from outside: into the holder's namespaces, and the folder where one was."""
    same = os.path.samestat(os.stat("/proc/self/ns/user"), os.stat(f"/proc/{pid}/ns/user"))
    user = [] if same else ["--user", "--preserve-credentials"]
    shell = 'PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin; cd "$1" 2>/dev/null; shift; exec "$@"'
    seen_by_it = f"/proc/{pid}/root"
    inside = [f"--net={seen_by_it}/run/netns/{file}", "--mount", "--pid"]
    return ["nsenter", "--target", str(pid), *user, *inside, "--", "sh", "-c", shell, "sh", os.getcwd(), *argv]


class Lab:
    """A running lab and the connection to its holder."""

    def __init__(
        self,
        sock: socket.socket,
        names: Mapping[str, str],
        process: subprocess.Popen[bytes] | None = None,
        errors: IO[bytes] | None = None,
    ) -> None:
        self.sock, self.names, self.process, self.errors = sock, names, process, errors
        self._file = sock.makefile("rb")
        self._shots = 0

    # -- life ----------------------------------------------------------------------------------------------------------

    @classmethod
    def start(
        cls, plan: Plan, *, door: Path | None = None, log: Path | None = None, user_namespace: bool | None = None
    ) -> Lab:
        """Make the namespaces and carry out the plan.

        Parameters
        ----------
        plan : Plan
            What to make.
        door : Path, optional
            A path for a Unix socket by which others reach the holder later.
        log : Path, optional
            A file for what the holder says on stderr; without it that is kept for a message should the start fail.

        user_namespace : bool, optional
            Whether to make a user namespace too; by default only where the user is not root.

        Raises
        ------
        InputError
            Missing tools, no permission to make namespaces, or the kernel refuses an action of the plan.
        """
        lacking = missing_tools(plan)
        if lacking:
            packages = " ".join(sorted({package for _, package in lacking}))
            raise InputError(
                "the lab needs " + ", ".join(tool for tool, _ in lacking), hint=f"on Debian or Ubuntu: apt-get install {packages}"
            )
        ours, theirs = socket.socketpair()
        path = os.environ.get("PATH", "") + _SBIN
        environment = {**os.environ, "PATH": path}
        arguments = [str(theirs.fileno()), *([str(door)] if door is not None else [])]
        errors = tempfile.TemporaryFile() if log is None else log.open("w+b")  # noqa: SIM115  # closed with the lab
        try:
            process = subprocess.Popen(
                [*unshare_command(user_namespace), sys.executable, "-I", str(Path(__file__).with_name("holder.py")), *arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        finally:
            theirs.close()
        lab = cls(ours, dict(plan.names), process, errors)
        try:
            lab.ask("carry out", actions=[_action(action) for action in plan.actions])
            lab.listen([(ns, listener) for ns, listener in plan.listeners])
        except BaseException:
            lab.close()
            raise
        return lab

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; where this process started the holder, that ends it and all that is in the lab."""
        self._file.close()
        self.sock.close()
        if self.process is not None:
            self.process.wait()
            self.process = None
        if self.errors is not None:
            self.errors.close()

    def leave(self) -> None:
        """Hang up on a lab that was told to stay."""
        if self.process is not None:
            self.process.returncode = 0  # it lives on: not to be waited for
            self.process = None
        self.close()

    # -- requests ------------------------------------------------------------------------------------------------------

    def ask(self, do: str, **request: object) -> dict[str, Any]:
        """One request to the holder and its answer."""
        try:
            self.sock.sendall(json.dumps({"do": do, **request}).encode() + b"\n")
            line = self._file.readline()
        except OSError:
            line = b""
        if not line:
            raise self._died()
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise InputError(f"the kernel refuses a part of this network: {answer['refused']}")
        if "error" in answer:
            raise BugError(f"the lab's holder: {answer['error']}")
        return answer

    def _died(self) -> InputError:
        said = ""
        if self.process is not None and self.errors is not None:
            self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().decode(errors="replace").strip()
        last = said.splitlines()[-1] if said else ""
        if "unshare" in last or "uid_map" in last:
            return InputError(
                f"namespaces cannot be made here: {refusal(last)}",
                hint="user namespaces may be switched off: see `sysctl kernel.unprivileged_userns_clone user.max_user_namespaces "
                "kernel.apparmor_restrict_unprivileged_userns`; run as root, or in user-mode Linux (--kernel uml)",
            )
        return InputError("the lab has ended" + (f": {last}" if last else ""))

    def file(self, ns: str) -> str:
        """The name under /run/netns of a namespace of the Network ("" stays the holder's own)."""
        return self.names.get(ns, ns)

    def listen(self, listeners: Iterable[tuple[str, Listener]]) -> list[str]:
        """Open more listening sockets; returns those that could not be opened, with the reason."""
        wanted = [
            {
                "ns": self.file(ns),
                "protocol": listener.protocol,
                "port": listener.port,
                "ip": str(listener.ip) if listener.ip is not None else "",
                "owner": listener.owner,
                "proxy": _proxy(listener),
            }
            for ns, listener in listeners
        ]
        problems: list[str] = self.ask("listen", listeners=wanted)["problems"]
        return problems

    def probe(self, shots: Sequence[Shot]) -> list[Seen]:
        """Send packets, all at once; the answers in the same order."""
        specs = []
        for shot in shots:
            self._shots += 1
            spec = {**msgspec.structs.asdict(shot), "ns": self.file(shot.ns), "id": self._shots}
            specs.append(spec)
        results = self.ask("probe", probes=specs)["results"]
        return [_seen(result, spec["id"]) for result, spec in zip(results, specs, strict=True)]

    def finish(self, held: Sequence[Seen], timeout: float = 3.0) -> list[Seen]:
        """Let held connections say their word."""
        ids = [seen.id for seen in held]
        results = self.ask("finish", held=ids, timeout=timeout)["results"]
        return [_seen(result, number) for result, number in zip(results, ids, strict=True)]

    def run(self, ns: str, *argv: str, stdin: str = "") -> str:
        """Run a tool in a namespace; its stdout. InputError with its stderr where it fails."""
        done = self.ask("run", ns=self.file(ns), argv=list(argv), stdin=stdin)
        if done["rc"] != 0:
            raise InputError(f"{ns}: {' '.join(argv)}: {str(done['err']).strip()}")
        return str(done["out"])


def _proxy(listener: Listener) -> dict[str, Any] | None:
    """What a socket of kube-proxy's userspace mode does, for the holder, which plays kube-proxy."""
    if listener.proxy is None:
        return None
    backends = [[str(address), port] for address, port in listener.proxy.backends]
    return {"backends": backends, "affinity": listener.proxy.affinity, "accepts": listener.proxy.accepts}


def _action(action: AddNetns | Sysctls | Run) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(action)
    if isinstance(action, Sysctls):
        made["settings"] = sysctl_paths(action.settings)
    return made


def _seen(result: dict[str, Any], number: int) -> Seen:
    source = result.get("source") or [""]
    got = result.get("arrived") or result
    local = got.get("local")
    peer = got.get("peer")
    icmp = result.get("icmp")
    return Seen(
        result["result"],
        source=_plain(source[0]),
        owner=got.get("owner", ""),
        local=_text(local) if local else "",
        peer=_plain(peer[0]) if peer else "",
        errno=result.get("errno", ""),
        icmp=(icmp[0], icmp[1]) if icmp else None,
        icmp_from=result.get("from", ""),
        arrived="arrived" in result,
        id=number,
    )


def _plain(address: str) -> str:
    return "" if address in ("0.0.0.0", "::") else address


def _text(pair: list[Any]) -> str:
    return f"[{pair[0]}]:{pair[1]}" if ":" in pair[0] else f"{pair[0]}:{pair[1]}"
