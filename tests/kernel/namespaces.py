"""Private network namespaces for tests: one helper process, real devices, real rules, counters read back.

    sender s0 ---- eth0 router eth1 ---- r0 receiver

Law: nothing of the host is touched and nothing outlives the helper process (a private mount and network namespace; for
users other than root also a user namespace). sender and receiver hold no address, so that they never answer by themselves.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

SENDER_MAC, ETH0_MAC = "02:00:00:00:01:02", "02:00:00:00:01:01"
ETH1_MAC, RECEIVER_MAC = "02:00:00:00:02:01", "02:00:00:00:02:02"

TOOLS = {  # what the helper runs -> the Debian package that has it
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "ipset": "ipset",
    "iptables-legacy-restore": "iptables",
    "iptables-nft-restore": "iptables",
}


def _unshare() -> list[str]:
    return ["unshare", "-nm"] if os.geteuid() == 0 else ["unshare", "-Urnm"]


def missing() -> str | None:
    """One line that says what this machine lacks for kernel tests, or None."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    packages = sorted({package for tool, package in TOOLS.items() if shutil.which(tool, path=path) is None})
    if packages:
        return f"kernel tests need: apt-get install {' '.join(packages)}"
    tried = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"kernel tests need permission to make namespaces (root, or user namespaces): {tried.stderr.strip()}"
    return None


class CommandError(Exception):
    """A command inside a namespace failed."""


class Namespaces:
    """The helper process and the network namespaces that it holds; use it as a context manager."""

    def __init__(self) -> None:
        agent = Path(__file__).with_name("namespaces_agent.py")
        self.process = subprocess.Popen(
            [*_unshare(), sys.executable, str(agent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def __enter__(self) -> Namespaces:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the helper; the kernel removes its namespaces and all that is in them."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _ask(self, **request: object) -> dict[str, object]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, object]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise CommandError(f"the helper process ended with status {self.process.wait()}")
        answer: dict[str, object] = json.loads(line)
        if "error" in answer:
            raise CommandError(str(answer["error"]))
        return answer

    def add(self, *names: str) -> None:
        """Make network namespaces, each with `lo` up."""
        for name in names:
            self.run("", "ip", "netns", "add", name)
            self.run(name, "ip", "link", "set", "lo", "up")

    def run(self, ns: str, *argv: str, input: str | None = None) -> str:
        """Run a command in a namespace and return its stdout; CommandError with its stderr where it fails."""
        done = self._ask(do="run", ns=ns, argv=list(argv), input=input)
        if done["rc"] != 0:
            raise CommandError(f"{ns}: {' '.join(argv)}: {str(done['err']).strip()}")
        return str(done["out"])

    def batch(self, ns: str, lines: str) -> None:
        """`ip -batch` in a namespace."""
        self.run(ns, "ip", "-batch", "-", input=lines)

    def sysctl(self, ns: str, settings: Mapping[str, int]) -> None:
        """Set sysctls by their dotted names without the leading "net."."""
        text = "\n".join(f"echo {value} > /proc/sys/net/{name.replace('.', '/')}" for name, value in settings.items())
        self.run(ns, "sh", "-e", "-c", text)

    def send(self, ns: str, dev: str, *frames: bytes) -> None:
        """Put Ethernet frames on the wire of a device."""
        self._ask(do="send", ns=ns, dev=dev, frames=[frame.hex() for frame in frames])

    def load(self, ns: str, text: str, variant: str, family: int = 4, flush: bool = True) -> None:
        """Load iptables-save text with iptables-VARIANT-restore ("legacy" or "nft"); without `flush` it is added."""
        self.run(ns, f"{_iptables(family)}-{variant}-restore", *([] if flush else ["--noflush"]), input=text)

    def counters(self, ns: str, table: str, chain: str, variant: str, family: int = 4) -> list[int]:
        """The packet counter of each rule of a chain, in order (iptables-save -c)."""
        saved = self.run(ns, f"{_iptables(family)}-{variant}-save", "-c", "-t", table)
        return [int(count) for count in re.findall(rf"^\[(\d+):\d+\] -A {re.escape(chain)}(?: .*)?$", saved, re.MULTILINE)]


def _iptables(family: int) -> str:
    return "iptables" if family == 4 else "ip6tables"


def router(sysctls: Mapping[str, int] | None = None, extra: Iterable[str] = ()) -> Namespaces:
    """The three namespaces of the drawing above, forwarding on, IPv4 10.1.0.1/24 and 10.2.0.1/24, IPv6 fd00:1::1/64 and
    fd00:2::1/64 on the router, default routes through 10.2.0.2 and fd00:2::2; `extra` are more lines for `ip -batch` there."""
    lab = Namespaces()
    try:
        lab.add("sender", "router", "receiver")
        for ns in ("sender", "receiver"):
            lab.sysctl(ns, {"ipv6.conf.default.disable_ipv6": 1})
        lab.sysctl(
            "router",
            {
                "ipv4.ip_forward": 1,
                "ipv4.conf.all.rp_filter": 0,
                "ipv4.conf.default.rp_filter": 0,
                "ipv6.conf.default.accept_dad": 0,
                "ipv6.conf.default.accept_ra": 0,
                "ipv6.conf.all.forwarding": 1,
                **(sysctls or {}),
            },
        )
        lab.batch(
            "router",
            f"""
            link add eth0 address {ETH0_MAC} type veth peer name s0 address {SENDER_MAC} netns sender
            link add eth1 address {ETH1_MAC} type veth peer name r0 address {RECEIVER_MAC} netns receiver
            link set eth0 addrgenmode none
            link set eth1 addrgenmode none
            """,
        )
        lab.batch("sender", "link set s0 up")
        lab.batch("receiver", "link set r0 up")
        lines = [
            "link set eth0 up",
            "link set eth1 up",
            "addr add 10.1.0.1/24 dev eth0",
            "addr add 10.2.0.1/24 dev eth1",
            "addr add fd00:1::1/64 dev eth0 nodad",
            "addr add fd00:2::1/64 dev eth1 nodad",
            f"neigh add 10.1.0.2 lladdr {SENDER_MAC} dev eth0 nud permanent",
            f"neigh add 10.2.0.2 lladdr {RECEIVER_MAC} dev eth1 nud permanent",
            f"neigh add fd00:1::2 lladdr {SENDER_MAC} dev eth0 nud permanent",
            f"neigh add fd00:2::2 lladdr {RECEIVER_MAC} dev eth1 nud permanent",
            "route add default via 10.2.0.2",
            "route add default via fd00:2::2",
            *extra,
        ]
        lab.batch("router", "\n".join(lines))
    except BaseException:
        lab.close()
        raise
    return lab
