"""The fuzzer's bench: one router between two wires, as real namespaces and as the Network that netlab walks.

    sender s0 ---- eth0 router eth1 ---- r0 receiver          10.1.0.0/24, fd00:1::/64 | 10.2.0.0/24, fd00:2::/64

Law: both are built from the same constants. The router forwards; its default route leads to 10.2.0.2, packets with mark
0x4000/0x4000 go to 10.1.0.2 (table 100); the first 32 hosts of each wire have permanent neighbour entries, so that nobody asks.
Nothing of the host is touched, nothing outlives the agent.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping

from netlab.errors import BugError, InputError
from netlab.lab import fuzz_nft, namespaces
from netlab.lab.namespaces import Namespaces
from netlab.linux.addr import Ip, Prefix, prefix
from netlab.linux.derived import RULES, derived_routes, loopback
from netlab.linux.netns import Address, Device, DeviceKind, Neighbour, Netns, NetnsKind, NextHop, PolicyRule, Route
from netlab.linux.network import Network
from netlab.linux.rules import Ruleset
from netlab.linux.sets import IpSet
from netlab.linux.text import nft

ROUTER, SENDER, RECEIVER = "router", "sender", "receiver"
MACS = {"eth0": "02:00:00:00:01:01", "s0": "02:00:00:00:01:02", "eth1": "02:00:00:00:02:01", "r0": "02:00:00:00:02:02"}
WIRES = {SENDER: ("eth0", "s0"), RECEIVER: ("eth1", "r0")}  # where a wire leads: the router's device, the other end's
HOSTS = 32
NETS = {"eth0": (prefix("10.1.0.0/24"), prefix("fd00:1::/64")), "eth1": (prefix("10.2.0.0/24"), prefix("fd00:2::/64"))}
TABLES = ("raw", "mangle", "nat", "filter")
MARK, TABLE, PRIORITY = 0x4000, 100, 1000

_SYSCTLS = {
    "ipv4.ip_forward": "1",
    "ipv4.conf.all.rp_filter": "0",
    "ipv4.conf.default.rp_filter": "0",
    "ipv4.conf.all.send_redirects": "0",
    "ipv4.conf.default.send_redirects": "0",
    "ipv4.icmp_ratelimit": "0",
    "ipv4.icmp_ratemask": "0",
    "ipv6.conf.default.accept_dad": "0",
    "ipv6.conf.default.accept_ra": "0",
    "ipv6.conf.default.mldv1_unsolicited_report_interval": "1",
    "ipv6.conf.default.mldv2_unsolicited_report_interval": "1",
    "ipv6.conf.all.forwarding": "1",
    "ipv6.icmp.ratelimit": "0",
}


def _hosts(net: Prefix) -> list[Ip]:
    return [net.nth(n) for n in range(2, HOSTS)]


def model(family: int, rules: Ruleset, sets: Mapping[str, IpSet]) -> Network:
    """The bench as netlab sees it, with these rules and sets in the router."""
    devices = [loopback()]
    neighbours = []
    for number, (ns, (dev, end)) in enumerate(WIRES.items(), 2):
        addresses = tuple(Address(net.nth(1), net.length) for net in NETS[dev])
        devices.append(Device(dev, DeviceKind.VETH, number, MACS[dev], peer=(ns, end), addresses=addresses))
        neighbours += [Neighbour(dev, host, MACS[end]) for net in NETS[dev] for host in _hosts(net)]
    near, far = NETS["eth0"], NETS["eth1"]
    routes = [
        *derived_routes(devices, True),
        *(Route(prefix(all_), (NextHop("eth1", net.nth(2)),)) for all_, net in zip(("0.0.0.0/0", "::/0"), far, strict=True)),
        *(
            Route(prefix(all_), (NextHop("eth0", net.nth(2)),), table=TABLE)
            for all_, net in zip(("0.0.0.0/0", "::/0"), near, strict=True)
        ),
    ]
    policy = [PolicyRule(PRIORITY, TABLE, f, fwmark=MARK, fwmask=MARK) for f in (4, 6)]
    router = Netns(
        ROUTER,
        NetnsKind.NODE,
        {device.name: device for device in devices},
        tuple(routes),
        (*RULES, *policy),
        tuple(neighbours),
        rulesets={family: rules},
        sets=sets,
        sysctls={"ipv4.ip_forward": 1, "ipv6.conf.all.forwarding": 1},
    )
    ends = {
        ns: Netns(ns, NetnsKind.NODE, {end: Device(end, DeviceKind.VETH, 2, MACS[end], peer=(ROUTER, dev))})
        for ns, (dev, end) in WIRES.items()
    }
    return Network({ROUTER: router, **ends})


def missing(variant: str) -> str | None:
    """One line that says what this machine lacks to fuzz with a variant ("legacy", "nft" or "nftables"), or None."""
    if variant == "nftables":
        tools = {"nft": "nftables"}
    else:
        tools = {f"{tool}-{variant}-restore": "iptables" for tool in ("iptables", "ip6tables")}
    return namespaces.missing({"ipset": "ipset", **tools}, "comparing rulesets with the kernel needs")


class Bench(Namespaces):
    """The real bench for one variant of iptables and one family; use it as a context manager."""

    def __init__(self, variant: str, family: int) -> None:
        reason = missing(variant)
        if reason is not None:
            raise InputError(reason)
        self.variant, self.family = variant, family
        self.tool = f"{'iptables' if family == 4 else 'ip6tables'}-{variant}"
        self.places: list[tuple[str, str, int]] = []  # (table, chain, number) of each counter
        self.counts: list[int] = []
        self.flush = ""  # text for nft that empties what rules fill
        self.forgets_recent = os.geteuid() == 0  # /proc/net/xt_recent belongs to the host's root, in any namespace
        super().__init__()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for ns in (SENDER, RECEIVER):
            self.run("", "ip", "netns", "add", ns)
            # the ends of the wires must not speak by themselves
            self.run(ns, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
        self.ask("sysctls", settings=_SYSCTLS)
        lines = ["link set lo up", *(f"link set {dev} addrgenmode none" for dev in MACS if dev.startswith("eth"))]
        wires = []
        for ns, (dev, end) in WIRES.items():
            wires.append(f"link add {dev} address {MACS[dev]} type veth peer name {end} address {MACS[end]} netns {ns}")
            lines.append(f"link set {dev} up")
            for net in NETS[dev]:
                lines.append(f"addr add {net.nth(1)}/{net.length} dev {dev}" + (" nodad" if net.family == 6 else ""))
                lines += [f"neigh add {host} lladdr {MACS[end]} dev {dev} nud permanent" for host in _hosts(net)]
        for dev, table in (("eth1", ""), ("eth0", f" table {TABLE}")):
            lines += [f"route add default via {net.nth(2)} dev {dev}{table}" for net in NETS[dev]]
        self.batch("", "\n".join([*wires, *lines]))
        for option in ("-4", "-6"):
            rule = f"{option} rule add fwmark {MARK:#x}/{MARK:#x} lookup {TABLE} priority {PRIORITY}"
            self.run("", "ip", *rule.split())
        for ns, (_, end) in WIRES.items():
            self.run(ns, "ip", "link", "set", end, "up")
            self.ask("wire", ns=ns, dev=end)
        self.run("", "sleep", "0.3")  # IPv6 tells its multicast routers of its groups

    def load(self, rules: str, sets: str) -> None:
        """Replace the router's rules and sets (iptables-save text with all four tables, ipset save text; or nft's text)."""
        if self.variant == "nftables":
            self.run("", "nft", "-f", "-", input=f"flush ruleset\n{rules}")
            listed = Ruleset(nft_tables=nft.read_text(self.run("", "nft", "list", "ruleset")))
            self.places = [place for place, _ in fuzz_nft.placed(listed)]
            self.flush = fuzz_nft.dynamic_sets(listed)
            self.counts = self.ask("counting", saves=[["nft", "list", "ruleset"]])["counts"]
            return
        empty = "".join(f"*{table}\nCOMMIT\n" for table in TABLES)
        self.run("", f"{self.tool}-restore", input=empty)
        self.run("", "ipset", "flush")  # a list:set holds on to its members
        for last in (False,) * 20 + (True,):  # nft lets go of the sets of deleted rules a little later
            done = self.ask("run", ns="", argv=["ipset", "destroy"], stdin="")
            if done["rc"] == 0:
                break
            if last:
                raise BugError(f"ipset destroy: {done['err']}")
            time.sleep(0.02)
        if sets:
            self.run("", "ipset", "restore", input=sets)
        self.run("", f"{self.tool}-restore", input=rules)
        saves = [[f"{self.tool}-save"]]
        if self.variant == "legacy" and os.geteuid() != 0:  # which tables there are stands in a file for the host's root alone
            saves = [[f"{self.tool}-save", "-t", table] for table in TABLES]
        self.places = places("".join(self.run("", *save) for save in saves))
        self.counts = self.ask("counting", saves=[[*save, "-c"] for save in saves])["counts"]

    def forget(self) -> None:
        """Forget all connections, and what `recent` has seen where that is allowed."""
        self.ask("forget", recent=self.forgets_recent)
        if self.flush:
            self.run("", "nft", "-f", "-", input=self.flush)

    def shot(self, at: str, data: bytes, dst: Ip) -> tuple[dict[tuple[str, str, int], int], list[tuple[str, bytes]]]:
        """Send one packet: `at` a wire's end, a whole frame; at the router, an IP packet.

        Returns
        -------
        dict
            How often each rule (table, chain, number) was hit.
        list
            The frames that came out, each with the end of the wire where.
        """
        answer = self.ask("shot", at=at, data=data.hex(), family=self.family, dst=str(dst))
        counts: list[int] = answer["counts"]
        hits = {
            place: now - then for place, now, then in zip(self.places, counts, self.counts, strict=True) if now != then
        }
        self.counts = counts
        return hits, [(ns, bytes.fromhex(data)) for ns, data in answer["seen"]]


def places(saved: str) -> list[tuple[str, str, int]]:
    """Which rule each line of iptables-save text is: (table, chain, number from 1)."""
    found: list[tuple[str, str, int]] = []
    numbers: dict[str, int] = {}
    table = ""
    for line in saved.split("\n"):
        if line.startswith("*"):
            table = line[1:]
            numbers = {}
        elif match := re.match(r"-A (\S+)", line):
            chain = match[1]
            numbers[chain] = numbers.get(chain, 0) + 1
            found.append((table, chain, numbers[chain]))
    return found
