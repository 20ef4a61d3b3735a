"""nft's expressions, asked of netlab and of Linux about the same packets: one counting rule per row, at all five hooks.

    sender s0 ---- eth0 router eth1 ---- r0 receiver

Law: the kernel is right. Each row stands in a chain of each hook with a `counter`; the fuzzer's judge compares every counter and
what leaves the router. Cases in tests/data/nft-regressions are what random rulesets taught.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from netlab.lab.frames import encode
from netlab.lab.fuzz_bench import Bench
from netlab.lab.fuzz_rules import Sent, fuzz_rulesets, judge, play, prepared, read_case
from netlab.linux.addr import ip
from netlab.linux.packet import ACK, ICMP, ICMPV6, RST, SYN, TCP, UDP, Packet

CASES = sorted((Path(__file__).parents[1] / "data" / "nft-regressions").glob("*.json"))
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")

SETS = {
    4: """
    set ips { type ipv4_addr; elements = { 10.1.0.2, 10.2.0.2 }; }
    set nets { type ipv4_addr; flags interval; elements = { 10.1.0.0/24, 10.2.0.8-10.2.0.20 }; }
    set pairs { type ipv4_addr . inet_proto . inet_service; elements = { 10.2.0.2 . tcp . 80, 10.2.0.2 . udp . 53 }; }
    set spans { type ipv4_addr . inet_service; flags interval; elements = { 10.2.0.0/24 . 1-100, 10.1.0.2 . 40000 }; }
    set faces { type ifname; flags interval; elements = { "eth1*", "lo" }; }
    map marks { type ipv4_addr : mark; elements = { 10.1.0.2 : 0x5, 10.2.0.2 : 0x6 }; }
    """,
    6: """
    set ips { type ipv6_addr; elements = { fd00:1::2, fd00:2::2 }; }
    set nets { type ipv6_addr; flags interval; elements = { fd00:1::/64, fd00:2::8-fd00:2::14 }; }
    set pairs { type ipv6_addr . inet_proto . inet_service; elements = { fd00:2::2 . tcp . 80, fd00:2::2 . udp . 53 }; }
    set spans { type ipv6_addr . inet_service; flags interval; elements = { fd00:2::/64 . 1-100, fd00:1::2 . 40000 }; }
    set faces { type ifname; flags interval; elements = { "eth1*", "lo" }; }
    map marks { type ipv6_addr : mark; elements = { fd00:1::2 : 0x5, fd00:2::2 : 0x6 }; }
    """,
}

ROWS = """
IP saddr NEAR2
IP saddr != NEAR2
IP saddr NEARNET
IP daddr != NEARNET
IP saddr NEAR2-NEAR20
IP daddr != NEAR2-NEAR20
IP saddr @ips
IP daddr != @ips
IP saddr @nets
IP daddr @nets
IP saddr { NEAR2, FAR2, FAR8-FAR20 }
IP daddr != { NEARNET, FAR3 }
IP saddr . IP daddr { NEAR2 . FAR2, FAR2 . NEAR2 }
IP daddr . meta l4proto . th dport @pairs
IP daddr . tcp dport @spans
IP daddr . udp dport != @spans
iifname . IP saddr { "eth0" . NEAR2, "lo" . FAR2 }
iifname "eth0"
iifname != "eth0"
iifname "eth*"
iifname != "eth*"
oifname "eth*"
oifname != "lo"
iifname @faces
oifname { "eth1", "lo" }
iif "eth0"
oif != "eth1"
iif "lo"
meta l4proto tcp
meta l4proto != tcp
meta l4proto { tcp, udp }
meta nfproto NFPROTO
meta protocol ETHER
meta length 60
meta length > 60
meta length 40-80
meta length != 40-80
meta pkttype host
meta pkttype != host
meta pkttype broadcast
meta mark 0x0
meta mark & 0x3 == 0x1
meta mark & 0x3 != 0x1
meta mark { 0x1, 0x2 }
meta mark < 0x2
tcp dport 80
tcp dport != 80
tcp dport { 80, 443, 1000-2000 }
tcp dport != { 80, 443 }
tcp dport 1-1023
tcp dport != 1-1023
tcp sport >= 40000
tcp sport < 40000
udp dport 53
meta l4proto { tcp, udp } th dport 53
tcp flags syn
tcp flags == syn
tcp flags != syn
tcp flags & (fin|syn|rst|ack) == syn
tcp flags & (fin|syn|rst|ack) != syn
tcp flags syn,ack
tcp flags & (syn|ack) == (syn|ack)
tcp flags { syn, rst }
TTL 64
TTL != 64
TTL < 64
TTL 60-63
ct state new
ct state established,related
ct state != new
ct state { new, invalid }
ct state != { established, related }
ct state invalid
ct state untracked
ct state ! new
ct direction original
ct direction reply
ct direction != reply
ct status seen-reply
ct status ! seen-reply
ct status confirmed
ct status assured
ct status dnat
ct mark 0x0
ct mark != 0x0
ct mark & 0x1 == 0x0
ct zone 0
ct zone != 0
ct l3proto NFPROTO
ct protocol tcp
ct protocol != tcp
ct original IP saddr NEAR2
ct original IP saddr != NEAR2
ct reply IP daddr NEAR2
meta l4proto tcp ct original proto-dst 80
meta l4proto tcp ct reply proto-src 80
meta l4proto icmp ct original proto-src 80
fib daddr type local
fib daddr type unicast
fib daddr type { local, multicast }
fib saddr type local
fib saddr type != unicast
fib daddr type unreachable
numgen random mod 1 0
jhash IP saddr mod 4 seed 0x7 0
jhash IP saddr mod 4 seed 0x7 1
jhash IP saddr mod 4 seed 0x7 2
jhash IP saddr . IP daddr mod 3 seed 0xdeadbeef 0
jhash IP saddr . IP daddr mod 3 seed 0xdeadbeef 1
jhash IP daddr . meta l4proto mod 5 seed 0x1 0
jhash IP daddr . tcp dport mod 5 seed 0x1 3
meta mark set IP saddr map @marks
meta mark set meta mark | 0x10
meta mark set meta mark & 0xffffff0f
meta mark set 0x0
"""

ONLY = {
    4: """
icmp type echo-request
icmp type { echo-reply, destination-unreachable }
icmp type != echo-request
icmp code 0
icmp code port-unreachable
icmp type echo-request icmp id 80
ip protocol icmp
ip protocol != icmp
ip length 60
ip version 4
ip hdrlength 5
@nh,96,32 0x0a010002
@nh,64,8 > 62
""",
    6: """
icmpv6 type echo-request
icmpv6 type { echo-reply, destination-unreachable }
icmpv6 code 0
icmpv6 type echo-request icmpv6 id 80
ip6 nexthdr ipv6-icmp
ip6 nexthdr != tcp
ip6 length 20
@nh,56,8 > 62
""",
}

WAYS = """
fib saddr oif "eth0"
fib saddr oif != "eth0"
fib saddr . iif oif missing
fib saddr . iif oif exists
fib saddr oif exists
fib daddr oif exists
fib daddr oifname "eth1"
fib saddr . iif oifname "eth0"
fib daddr . iif type local
fib daddr . iif type != local
fib saddr . mark . iif oif missing
"""

WORDS = {
    4: {
        "IP": "ip", "NEARNET": "10.1.0.0/24", "NEAR2": "10.1.0.2", "NEAR20": "10.1.0.20", "FAR2": "10.2.0.2", "FAR3": "10.2.0.3",
        "FAR8": "10.2.0.8", "FAR20": "10.2.0.20", "NFPROTO": "ipv4", "ETHER": "ip", "TTL": "ip ttl",
    },
    6: {
        "IP": "ip6", "NEARNET": "fd00:1::/64", "NEAR2": "fd00:1::2", "NEAR20": "fd00:1::14", "FAR2": "fd00:2::2",
        "FAR3": "fd00:2::3", "FAR8": "fd00:2::8", "FAR20": "fd00:2::14", "NFPROTO": "ipv6", "ETHER": "ip6",
        "TTL": "ip6 hoplimit",
    },
}  # fmt: skip


def rows(family: int, hook: str, table: str) -> list[str]:
    text = ROWS + ONLY[family] + (WAYS if hook in ("prerouting", "input", "forward") else "")
    for word, meaning in sorted(WORDS[family].items(), key=lambda each: -len(each[0])):
        text = text.replace(word, meaning)
    own = table != "inet"  # nft takes `meta nfproto` in inet alone
    return [line for line in text.split("\n") if line and not (own and line.startswith("meta nfproto"))]


def ruleset(family: int, table: str, priority: int, before: str = "") -> str:
    chains = []
    for hook in HOOKS:
        lines = "".join(f"{row} counter\n" for row in rows(family, hook, table))
        chains.append(f"chain {hook} {{\ntype filter hook {hook} priority {priority};\n{lines}}}\n")
    return f"table {table} rows {{\n{SETS[family]}\n{before}{''.join(chains)}}}\n"


def traffic(family: int) -> list[tuple[str, list[Sent]]]:
    near, far, near1, far1 = ("10.1.0.", "10.2.0.", "1", "1") if family == 4 else ("fd00:1::", "fd00:2::", "1", "1")
    far20 = f"{far}{'20' if family == 4 else '14'}"  # every host has a permanent neighbour entry
    echo, reply, icmp = (8, 0, ICMP) if family == 4 else (128, 129, ICMPV6)

    def packet(src: str, dst: str, protocol: int, **fields: int) -> Packet:
        return Packet(ip(src), ip(dst), protocol, **{"length": 60, **fields})

    def sent(at: str, made: Packet, **numbers: int) -> Sent:
        return Sent(at, encode(made, **numbers))

    to, back = {"sport": 40000, "dport": 80}, {"sport": 80, "dport": 40000}
    shake = [
        sent("sender", packet(f"{near}2", f"{far}2", TCP, tcp_flags=SYN, **to), seq=1000),
        sent("receiver", packet(f"{far}2", f"{near}2", TCP, tcp_flags=SYN | ACK, **back), seq=9000, ack=1001),
        sent("sender", packet(f"{near}2", f"{far}2", TCP, tcp_flags=ACK, **to), seq=1001, ack=9001),
    ]
    return [
        ("a TCP handshake", shake),
        ("a stray RST", [sent("sender", packet(f"{near}3", f"{far}3", TCP, tcp_flags=RST, sport=1024, dport=443))]),
        ("a question by UDP and its answer", [
            sent("sender", packet(f"{near}2", f"{far}2", UDP, sport=40000, dport=53)),
            sent("receiver", packet(f"{far}2", f"{near}2", UDP, sport=53, dport=40000)),
        ]),
        ("ping through", [
            sent("sender", packet(f"{near}2", f"{far}8", icmp, icmp_type=echo, icmp_id=80)),
            sent("receiver", packet(f"{far}8", f"{near}2", icmp, icmp_type=reply, icmp_id=80)),
        ]),
        ("ping the router", [sent("sender", packet(f"{near}2", f"{near}{near1}", icmp, icmp_type=echo, icmp_id=81, ttl=63))]),
        ("the router asks", [sent("router", packet(f"{far}{far1}", f"{far}2", UDP, sport=1024, dport=80))]),
        ("the router asks itself", [sent("router", packet(f"{far}{far1}", f"{near}{near1}", TCP, tcp_flags=SYN, **to))]),
        ("a closed port", [sent("receiver", packet(far20, f"{far}{far1}", UDP, sport=53, dport=443))]),
        ("a spoofed source", [sent("sender", packet(far20, f"{far}2", UDP, sport=53, dport=53, ttl=62))]),
        ("its last hop", [sent("sender", packet(f"{near}2", f"{far}2", UDP, sport=53, dport=53, ttl=1))]),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def benches(kernel: None) -> Iterator[dict[int, Bench]]:
    with ExitStack() as stack:
        yield {family: stack.enter_context(Bench("nftables", family)) for family in (4, 6)}


@pytest.mark.parametrize("table", ["own", "inet"])
@pytest.mark.parametrize("priority", [-310, -160, 20])
@pytest.mark.parametrize("family", [4, 6])
def test_every_row_holds_where_linux_says_so(benches: dict[int, Bench], family: int, priority: int, table: str) -> None:
    text = ruleset(family, WORDS[family]["IP"] if table == "own" else "inet", priority)
    bench = benches[family]
    bench.load(text, "")
    links, counted = prepared(bench.run("", "nft", "list", "ruleset"), "", family)
    assert len(counted) > 500
    wrong = []
    for name, packets in traffic(family):
        found = judge(links, packets, play(bench, packets))
        if found.difference:  # IPv6 may have told its routers of its groups in between
            found = judge(links, packets, play(bench, packets))
        if found.difference:
            rule = {f"{place[0]} {place[1]} {place[2]}": str(rule.statements[:1]) for place, rule in counted.items()}  # type: ignore[union-attr]
            lines = [f"{line}   {rule.get(line.partition(':')[0], '')}" for line in found.difference.split("\n")]
            wrong.append(f"{name}, packet {found.agreed}:\n" + "\n".join(lines))
        else:
            assert found.agreed == len(packets), name
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_what_random_rulesets_taught_still_holds(benches: dict[int, Bench], path: Path) -> None:
    case = read_case(path)
    links, _ = prepared(case.rules, case.sets, case.family)
    bench = benches[case.family]
    bench.load(case.rules, case.sets)
    found = judge(links, case.packets, play(bench, case.packets))
    assert found.difference == "", f"{case.why}\npacket {found.agreed}: {found.difference}"
    assert found.agreed > 0


def test_random_rulesets_do_what_netlab_says(kernel: None) -> None:
    report = fuzz_rulesets(12, 2026, "nftables", most_disagreements=1)
    assert report.disagreements == [], "\n".join(map(str, report.disagreements))
    assert report.unsteady == 0
    assert report.packets > 700
    assert report.unknown < report.packets / 20
    assert len(report.matches) > 20
    assert len(report.targets) > 12


@pytest.mark.parametrize(("share", "dport"), [("numgen random mod 3", 80), ("numgen inc mod 3", 81)])
def test_a_share_of_the_packets_goes_each_way(benches: dict[int, Bench], share: str, dport: int) -> None:
    """A vmap of three chains: netlab has three branches, whichever Linux takes."""
    ways = ", ".join(f"{number} : goto way{number}" for number in range(3))
    chains = "".join(f"chain way{number} {{\ncounter\n}}\n" for number in range(3))
    text = f"table ip t {{\n{chains}chain c {{\ntype filter hook forward priority 0;\ncounter {share} vmap {{ {ways} }}\n}}\n}}\n"
    bench = benches[4]
    bench.load(text, "")
    links, _ = prepared(bench.run("", "nft", "list", "ruleset"), "", 4)
    sent = [Packet(ip("10.1.0.2"), ip("10.2.0.2"), UDP, sport=port, dport=dport) for port in range(5000, 5004)]
    packets = [Sent("sender", encode(packet)) for packet in sent]
    seen = play(bench, packets)
    found = judge(links, packets, seen)
    assert (found.difference, found.agreed) == ("", 4)
