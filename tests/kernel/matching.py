"""One packet, hundreds of answers: rows of rule text asked of netlab and of Linux, and the list of where they differ.

Each row becomes a counting rule (no target) of a chain at a hook; the counter that moves when a packet passes is Linux's
answer, `rule_holds` with the hook's View is netlab's. Law: every row must get True or False, and the same from both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from namespaces import ETH0_MAC, ETH1_MAC, Namespaces

from netlab.linux.addr import ip, prefix
from netlab.linux.derived import derived_routes
from netlab.linux.netns import Address, Device, DeviceKind, Netns, NetnsKind, NextHop, Route, RouteType
from netlab.linux.rules import Hook, Rule
from netlab.linux.sets import IpSet, SetEntry
from netlab.linux.text.iptables_save import parse_rule
from netlab.match.naive import rule_holds
from netlab.match.view import View
from netlab.refs import Ref

TABLES = {  # where the rows of a hook stand: after conntrack, and in FORWARD after the destination was translated
    Hook.PREROUTING: "mangle",
    Hook.INPUT: "filter",
    Hook.FORWARD: "filter",
    Hook.OUTPUT: "mangle",
    Hook.POSTROUTING: "mangle",
}

Traffic = tuple[str, Callable[[], object], Sequence[View]]  # a packet's name, how to send it, what it is at each hook


def router_netns(bad_routes: Iterable[str] = (), sets: str = "", extra: Sequence[Device] = ()) -> Netns:
    """What namespaces.router() built, as netlab sees it: with `route add TYPE PREFIX` lines, `ipset save` text, more devices."""
    devices = (
        Device("lo", DeviceKind.LOOPBACK, 1, addresses=(Address(ip("127.0.0.1"), 8, "host"), Address(ip("::1"), 128, "host"))),
        Device("eth0", DeviceKind.VETH, 2, ETH0_MAC, addresses=(Address(ip("10.1.0.1"), 24), Address(ip("fd00:1::1"), 64))),
        Device("eth1", DeviceKind.VETH, 3, ETH1_MAC, addresses=(Address(ip("10.2.0.1"), 24), Address(ip("fd00:2::1"), 64))),
        *extra,
    )
    routes = [
        *derived_routes(devices, True),
        Route(prefix("0.0.0.0/0"), (NextHop("eth1", ip("10.2.0.2")),)),
        Route(prefix("::/0"), (NextHop("eth1", ip("fd00:2::2")),), metric=1024),
    ]
    for line in bad_routes:
        _, _, kind, dst = line.split()
        routes.append(Route(prefix(dst), type=RouteType(kind)))
    return Netns("router", NetnsKind.NODE, {d.name: d for d in devices}, tuple(routes), sets=ipsets(sets))


def ipsets(text: str) -> dict[str, IpSet]:
    sets: dict[str, IpSet] = {}
    for verb, name, rest in (line.split(maxsplit=2) for line in text.split("\n") if line):
        if verb == "create":
            kind, _, options = rest.partition(" ")
            sets[name] = IpSet(name, kind, 6 if "inet6" in options else 4, options=options)
        else:
            element, *flags = rest.split()
            entry = SetEntry(tuple(element.split(",")), "nomatch" in flags, " ".join(f for f in flags if f != "nomatch"))
            sets[name] = msgspec.structs.replace(sets[name], entries=(*sets[name].entries, entry))
    return sets


def rules(text: str, family: int) -> list[tuple[str, Rule]]:
    lines = [line for line in text.split("\n") if line]
    return [(line, parse_rule(f"-A ROWS {line}", family, Ref())[1]) for line in lines]


def compare(
    lab: Namespaces,
    variant: str,
    family: int,
    texts: Mapping[Hook, str],
    traffic: Iterable[Traffic],
    before: str = "",
    sets: str = "",
) -> int:
    """Send every packet, ask every row of both.

    Returns how many (row, packet) pairs were compared; AssertionError lists all that differ. `before` is iptables-save
    text that is loaded first (its rules stand before the rows), `sets` text for `ipset restore`.
    """
    rows = {hook: rules(text, family) for hook, text in texts.items()}
    if sets:
        lab.run("router", "ipset", "restore", input=sets)
    if before:
        lab.load("router", before, variant, family)
    for hook in rows:
        lines = "".join(f"-A ROWS-{hook.value} {text}\n" for text, _ in rows[hook])
        # the first row of a chain counts every packet: it says when one has arrived
        chain = f":ROWS-{hook.value} - [0:0]\n-A {hook.value} -j ROWS-{hook.value}\n-A ROWS-{hook.value}\n{lines}"
        lab.load("router", f"*{TABLES[hook]}\n{chain}COMMIT\n", variant, family, flush=False)
    known = {hook: [0] * (len(rows[hook]) + 1) for hook in rows}
    wrong: list[str] = []
    asked = 0
    for name, send, views in traffic:
        seen = {view.hook: view for view in views}
        send()
        for hook in rows:
            expected = int(hook in seen)
            for _ in range(100):  # the packet is processed while it is sent, or very soon after
                counts = lab.counters("router", TABLES[hook], f"ROWS-{hook.value}", variant, family)
                if counts[0] - known[hook][0] >= expected:
                    break
            hits = [now - then for now, then in zip(counts, known[hook], strict=True)]
            known[hook] = counts
            if hits[0] != expected:
                wrong.append(f"{hook.value}: {name!r} came {hits[0]} times, not {expected}")
            elif expected:
                for (text, rule), hit in zip(rows[hook], hits[1:], strict=True):
                    asked += 1
                    answer = rule_holds(rule, seen[hook])
                    if answer is not bool(hit):
                        wrong.append(f"{hook.value}: {text} | {name}: netlab {answer}, Linux {bool(hit)}")
    assert not wrong, f"{len(wrong)} of {asked} differ:\n" + "\n".join(wrong)
    return asked
