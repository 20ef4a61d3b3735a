"""Which kernel performs a network: the running one, or user-mode Linux where the running one lacks something.

Law: nobody guesses from versions and configurations. What a network needs is read off the network; whether this kernel has it
is tried, in a private namespace that is gone afterwards. A kernel that somebody asked for by name is never replaced by another.
Tools that are not installed are not judged here: they are missing in both kernels, and the lab names their packages.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterable
from typing import Literal, NamedTuple

from netlab.errors import InputError
from netlab.lab import uml
from netlab.lab.host import refusal
from netlab.linux.netns import DeviceKind
from netlab.linux.network import Network
from netlab.linux.packet import SCTP

Kernel = Literal["host", "uml"]
KERNELS = ("auto", "host", "uml")

_IPTABLES = "-t nat -A POSTROUTING -m comment --comment x -m conntrack --ctstate NEW -j MASQUERADE"

# A part of the kernel -> (the tool that the attempt needs, the attempt: a shell command in fresh network and mount namespaces).
PROBES: dict[str, tuple[str, str]] = {
    "IPv6": ("sh", "test -e /proc/sys/net/ipv6"),
    "veth": ("ip", "ip link add name v0 type veth peer name v1"),
    "bridge": ("ip", "ip link add name b0 type bridge"),
    "br_netfilter": ("ip", "test -e /proc/sys/net/bridge/bridge-nf-call-iptables"),
    "vxlan": ("ip", "ip link add name x0 type vxlan id 1 dstport 8472"),
    "ipip": ("ip", "ip link add name i0 type ipip local 192.0.2.1 remote 192.0.2.2"),
    "dummy": ("ip", "ip link add name d0 type dummy"),
    "IPVS": ("sh", "test -e /proc/net/ip_vs"),
    "ipset": ("ipset", "ipset create s0 hash:ip,port"),
    "iptables-legacy": ("iptables-legacy", f"iptables-legacy {_IPTABLES}"),
    "iptables-nft": ("iptables-nft", f"iptables-nft {_IPTABLES}"),
    "nftables": (
        "nft",
        "nft 'add table ip t; add chain ip t c { type nat hook postrouting priority 100; }; add rule ip t c masquerade'",
    ),
}

# What Debian's user-mode-linux is built without: nf_tables knows no IPv4 and IPv6 families there, and no NAT.
NOT_IN_UML = frozenset({"iptables-nft", "nftables"})

_MODULES = {"br_netfilter": "br_netfilter", "IPVS": "ip_vs", "ipip": "ipip", "dummy": "dummy"}
_DEVICES = {
    DeviceKind.VETH: "veth",
    DeviceKind.PHYSICAL: "veth",  # in the lab
    DeviceKind.BRIDGE: "bridge",
    DeviceKind.VXLAN: "vxlan",
    DeviceKind.IPIP: "ipip",
    DeviceKind.DUMMY: "dummy",
}


class Choice(NamedTuple):
    """The kernel to take, and why, as a clause that follows a colon."""

    kernel: Kernel
    reason: str


def requirements(network: Network, variant: str = "legacy") -> frozenset[str]:
    """What a network needs of a kernel, in the words of `PROBES`; `variant` of iptables is "legacy" or "nft".

    >>> sorted(requirements(Network()))
    []
    """
    found: set[str] = set()
    if network.segments:
        found |= {"veth", "bridge"}
    for netns in network.namespaces.values():
        for device in netns.devices.values():
            if device.kind in _DEVICES:
                found.add(_DEVICES[device.kind])
            if device.kind is not DeviceKind.LOOPBACK and any(address.ip.family == 6 for address in device.addresses):
                found.add("IPv6")
        if any(netns.sysctl(f"bridge.bridge-nf-call-{table}") for table in ("iptables", "ip6tables", "arptables")):
            found.add("br_netfilter")
        if netns.sets:
            found.add("ipset")
        if netns.ipvs or any(name.startswith("ipv4.vs.") for name in netns.sysctls):
            found.add("IPVS")
        if any(ruleset.tables for ruleset in netns.rulesets.values()):
            found.add(f"iptables-{variant}")
        if any(ruleset.nft_tables for ruleset in netns.rulesets.values()):
            found.add("nftables")
    return frozenset(found)


def unsent(network: Network) -> str:
    """What the network's sockets speak and the running kernel cannot: the lab stands without it, and verify counts such flows."""
    if not any(listener.protocol == SCTP for space in network.namespaces.values() for listener in space.listeners):
        return ""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP).close()
    except OSError:
        return "SCTP"
    return ""


def lacks(needs: Iterable[str]) -> tuple[frozenset[str], str]:
    """What the running kernel has not, found out by trying; and why nothing could be tried, else "".

    Raises
    ------
    KeyError
        A need that is none of `PROBES`.
    """
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    attempts = {need: PROBES[need] for need in PROBES if need in set(needs)}
    unheard = set(needs) - set(PROBES)
    if unheard:
        raise KeyError(*sorted(unheard))
    script = "mount -t tmpfs tmpfs /run\n"  # the lock file of iptables
    for need, (tool, attempt) in attempts.items():
        if shutil.which(tool, path=path) is not None:
            script += f"{{ {attempt}; }} </dev/null >/dev/null 2>&1 || echo {need}\n"
    flags = "-nm" if os.geteuid() == 0 else "-Urnm"
    try:
        tried = subprocess.run(
            ["unshare", flags, "sh", "-c", f"{script}echo tried"], env={"PATH": path}, capture_output=True, text=True, check=False
        )
    except OSError:
        return frozenset(attempts), "there is no unshare (util-linux)"
    *missing, last = tried.stdout.split("\n")[:-1] or [""]
    if last != "tried":
        said = tried.stderr.strip().splitlines()
        return frozenset(attempts), "namespaces cannot be made here" + (f": {refusal(said[-1])}" if said else "")
    return frozenset(missing), ""


def choose_kernel(needs: Iterable[str], wanted: str = "auto") -> Choice:
    """The kernel that can perform a network.

    Parameters
    ----------
    needs : iterable of str
        What it needs: `requirements(network)`.
    wanted : str
        "host" or "uml" to insist, "auto" to have the running kernel where it will do.

    Raises
    ------
    InputError
        The kernel that was asked for cannot do it, or none can.

    >>> choose_kernel([], "auto")
    Choice(kernel='host', reason='it has everything that the network needs')
    """
    needs = frozenset(needs)
    if wanted == "uml":
        impossible = needs & NOT_IN_UML
        if impossible:
            raise InputError(f"user-mode Linux has no {_list(impossible)}", hint=_advice(impossible))
        return Choice("uml", "asked for")
    missing, trouble = lacks(needs) if needs else (frozenset[str](), "")
    if wanted == "host" and trouble:
        return Choice("host", "asked for")  # the lab will fail and say it better
    if not missing:
        return Choice("host", "asked for" if wanted == "host" else "it has everything that the network needs")
    why = trouble or f"the running kernel has no {_list(missing)}"
    if wanted == "host":
        raise InputError(why, hint=_how_to_go_on(needs, missing))
    impossible = needs & NOT_IN_UML
    if impossible:
        raise InputError(f"{why}, and user-mode Linux has no {_list(impossible)}", hint=_advice(impossible))
    packages = uml.missing()
    if packages:
        raise InputError(f"{why}, and user-mode Linux is not installed", hint=f"apt-get install {' '.join(packages)}")
    return Choice("uml", why)


def modules(needs: Iterable[str]) -> tuple[str, ...]:
    """The modules that user-mode Linux has to load for them, because the kernel does not by itself."""
    return tuple(dict.fromkeys([*uml.PRELOADED, *(_MODULES[need] for need in sorted(set(needs)) if need in _MODULES)]))


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _how_to_go_on(needs: frozenset[str], missing: frozenset[str]) -> str | None:
    names = sorted(_MODULES[need] for need in missing if need in _MODULES)
    ways = [f"`modprobe -a {' '.join(names)}` may load it"] if missing <= _MODULES.keys() else []
    if not needs & NOT_IN_UML:
        ways.append("--kernel uml runs the same lab in user-mode Linux")
    return "; ".join(ways) or _advice(missing)


def _advice(names: frozenset[str]) -> str | None:
    return "--iptables legacy works in both kernels" if "iptables-nft" in names else None
