"""Private network namespaces for tests: real devices, real rules, counters read back.

    sender s0 ---- eth0 router eth1 ---- r0 receiver

Law: sender and receiver hold no address, so that they never answer by themselves; the rest is that of netlab/lab/namespaces.py.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping

from netlab.lab import namespaces as lab_namespaces
from netlab.lab.namespaces import CommandError

SENDER_MAC, ETH0_MAC = "02:00:00:00:01:02", "02:00:00:00:01:01"
ETH1_MAC, RECEIVER_MAC = "02:00:00:00:02:01", "02:00:00:00:02:02"

TOOLS = {  # what the helper runs -> the Debian package that has it
    "ipset": "ipset",
    "iptables-legacy-restore": "iptables",
    "iptables-nft-restore": "iptables",
}


def missing() -> str | None:
    """One line that says what this machine lacks for kernel tests, or None."""
    return lab_namespaces.missing(TOOLS, "kernel tests need")


class Namespaces(lab_namespaces.Namespaces):
    """The lab's, with what tests of rules want."""

    def add(self, *names: str) -> None:
        """Make network namespaces, each with `lo` up."""
        for name in names:
            self.run("", "ip", "netns", "add", name)
            self.run(name, "ip", "link", "set", "lo", "up")

    def sysctl(self, ns: str, settings: Mapping[str, int]) -> None:
        """Set sysctls by their dotted names without the leading "net."."""
        text = "\n".join(f"echo {value} > /proc/sys/net/{name.replace('.', '/')}" for name, value in settings.items())
        self.run(ns, "sh", "-e", "-c", text)

    def wait_for_carriers(self, *names: str) -> None:
        """A device whose other end came up later drops all that it sends until link_watch.c has been run."""
        until = time.monotonic() + 10
        for name in names:
            while "state DOWN" in (shown := self.run(name, "ip", "-o", "link")) or "state LOWERLAYERDOWN" in shown:
                assert time.monotonic() < until, shown
                time.sleep(0.01)

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
        lab.wait_for_carriers("sender", "router", "receiver")
    except BaseException:
        lab.close()
        raise
    return lab


__all__ = ["ETH0_MAC", "ETH1_MAC", "RECEIVER_MAC", "SENDER_MAC", "TOOLS", "CommandError", "Namespaces", "missing", "router"]
