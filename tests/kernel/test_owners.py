"""Several owners on one hook: iptables-nft (flannel, kubelet) beside tables of nft (kube-proxy, firewalld), in priority order.

    sender 10.1.0.2 ---- router ---- 10.2.0.0/24 receiver          iptables-nft: mangle -150, nat -100/100, filter 0

A row has both owners' rules and a packet. Whatever Linux does with it, every rule that it hits and where it leaves, is what
netlab says, and what the row says. iptables' tables are there first, so that nft's chains of one priority run before them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netlab.lab import fuzz_nft
from netlab.lab.frames import encode
from netlab.lab.fuzz_bench import ROUTER, SENDER, Bench, model, places
from netlab.lab.fuzz_rules import Seen, Sent, judge, play
from netlab.linux.addr import ip
from netlab.linux.bridge import Links
from netlab.linux.packet import SYN, TCP, Packet
from netlab.linux.rules import Ruleset
from netlab.linux.text import iptables_save
from netlab.linux.text.nft import read_text

ROWS = {
    "DNAT by nft, then the filter of iptables sees the new destination": (
        "-t nat prerouting -100 ip daddr 10.96.0.1 counter dnat to 10.2.0.5",
        "filter FORWARD -d 10.2.0.5/32 -j DROP",
        "nothing",
    ),
    "DNAT by nft, and a filter of iptables that knows the old destination alone": (
        "-t nat prerouting -100 ip daddr 10.96.0.1 counter dnat to 10.2.0.5",
        "filter FORWARD -d 10.96.0.1/32 -j DROP",
        "receiver 10.2.0.5:80",
    ),
    "nft's filter at -110 comes before the DNAT of iptables": (
        "prerouting -110 ip daddr 10.96.0.1 counter drop",
        "nat PREROUTING -d 10.96.0.1/32 -j DNAT --to-destination 10.2.0.5",
        "nothing",
    ),
    "nft's filter at -110 does not see what the DNAT of iptables makes": (
        "prerouting -110 ip daddr 10.2.0.5 counter drop",
        "nat PREROUTING -d 10.96.0.1/32 -j DNAT --to-destination 10.2.0.5",
        "receiver 10.2.0.5:80",
    ),
    "nft's filter at -90 does": (
        "prerouting -90 ip daddr 10.2.0.5 counter drop",
        "nat PREROUTING -d 10.96.0.1/32 -j DNAT --to-destination 10.2.0.5",
        "nothing",
    ),
    "a drop at an earlier priority: iptables is not asked": (
        "forward -110 tcp dport 80 counter drop",
        "filter FORWARD -j ACCEPT",
        "nothing",
    ),
    "a drop at a later priority, after iptables' ACCEPT": (
        "forward 10 tcp dport 80 counter drop",
        "filter FORWARD -j ACCEPT",
        "nothing",
    ),
    "an accept at an earlier priority leaves iptables its say": (
        "forward -110 counter accept",
        "filter FORWARD -j DROP",
        "nothing",
    ),
    "an accept at an earlier priority does not end another chain of nft": (
        "forward -110 counter accept; forward 5 counter drop",
        "filter FORWARD -j ACCEPT",
        "nothing",
    ),
    "ACCEPT of iptables does not end nft at the same priority": ("forward 0 counter drop", "filter FORWARD -j ACCEPT", "nothing"),
    "of one priority nft's chain, there later, is asked first": ("forward 0 counter drop", "filter FORWARD -j DROP", "nothing"),
    "a policy of iptables after an accept of nft": (
        "forward -110 counter accept",
        "filter FORWARD -d 10.9.9.9/32 -j ACCEPT; policy",
        "nothing",
    ),
    "reject at -110, as of kube-proxy's ClusterIPs": (
        "forward -110 ip daddr 10.96.0.1 counter reject",
        "filter FORWARD -j ACCEPT",
        "sender 10.1.0.2 ICMP 3/3",
    ),
    "a mark of nft is seen by iptables": (
        "prerouting -110 counter meta mark set 0x8",
        "filter FORWARD -m mark --mark 0x8 -j DROP",
        "nothing",
    ),
    "a mark of iptables' mangle table is seen by nft at -110": (
        "forward -110 meta mark 0x8 counter drop",
        "mangle PREROUTING -j MARK --set-xmark 0x8/0xffffffff",
        "nothing",
    ),
    "two DNATs at one priority: nft's, there later, is first, and iptables' nat chain is not asked": (
        "-t nat prerouting -100 ip daddr 10.96.0.1 counter dnat to 10.2.0.5",
        "nat PREROUTING -d 10.96.0.1/32 -j DNAT --to-destination 10.2.0.6",
        "receiver 10.2.0.5:80",
    ),
    "two DNATs, nft's at a later priority": (
        "-t nat prerouting -90 ip daddr 10.96.0.1 counter dnat to 10.2.0.5",
        "nat PREROUTING -d 10.96.0.1/32 -j DNAT --to-destination 10.2.0.6",
        "receiver 10.2.0.6:80",
    ),
    "an accept in a nat chain is no NAT: the next nat chain is asked": (
        "-t nat prerouting -100 counter accept",
        "nat PREROUTING -d 10.96.0.1/32 -j DNAT --to-destination 10.2.0.6",
        "receiver 10.2.0.6:80",
    ),
    "DNAT by nft, SNAT by flannel's iptables": (
        "-t nat prerouting -100 ip daddr 10.96.0.1 counter dnat to 10.2.0.5",
        "nat POSTROUTING -d 10.2.0.0/24 -j SNAT --to-source 10.2.0.1",
        "receiver 10.2.0.5:80 from 10.2.0.1",
    ),
    "kube-proxy masquerades, and flannel's rule that would not is not asked": (
        "-t nat postrouting 100 counter masquerade",
        "nat POSTROUTING -j RETURN",
        "receiver 10.96.0.1:80 from 10.2.0.1",
    ),
    "NOTRACK by iptables: no nat chain of nft is asked": (
        "-t nat prerouting -100 ip daddr 10.96.0.1 counter dnat to 10.2.0.5",
        "raw PREROUTING -j CT --notrack",
        "receiver 10.96.0.1:80",
    ),
    "notrack by nft at -300: no nat chain of iptables is asked": (
        "prerouting -300 counter notrack",
        "nat PREROUTING -d 10.96.0.1/32 -j DNAT --to-destination 10.2.0.5",
        "receiver 10.96.0.1:80",
    ),
}


@pytest.fixture(scope="module")
def bench(kernel: None) -> Iterator[Bench]:
    with Bench("nft", 4) as made:
        yield made


def nft_text(chains: str) -> str:
    """`[-t TYPE] HOOK PRIORITY RULE; ...` as a table, each rule in a chain of its own."""
    lines = []
    for number, each in enumerate(chains.split("; ")):
        words = each.split()
        kind = words[1] if words[0] == "-t" else "filter"
        hook, priority, *rule = words[2:] if words[0] == "-t" else words
        base = f"type {kind} hook {hook} priority {priority}; policy accept;"
        lines += [f"\tchain {hook}-{number} {{", f"\t\t{base}", f"\t\t{' '.join(rule)}", "\t}"]
    return "\n".join(["table ip own {", *lines, "}", ""])


def iptables_text(rule: str) -> str:
    table, chain, *words = rule.removesuffix("; policy").split()
    policy = "DROP" if rule.endswith("; policy") else "ACCEPT"
    return f"*{table}\n:{chain} {policy} [0:0]\n-A {chain} {' '.join(words)}\nCOMMIT\n"


def both(nft: str, rule: str) -> Ruleset:
    return Ruleset(iptables_save.parse(iptables_text(rule), family=4).tables, nft_tables=read_text(nft_text(nft)))


def load(bench: Bench, nft: str, rule: str) -> None:
    """iptables first, then nft; the counters of both."""
    bench.run("", "nft", "flush", "ruleset")
    bench.run("", "iptables-nft-restore", input=iptables_text(rule))
    bench.run("", "nft", "-f", "-", input=nft_text(nft))
    table = rule.split()[0]
    listed = Ruleset(nft_tables=read_text(bench.run("", "nft", "list", "table", "ip", "own")))
    saves = [["iptables-nft-save", "-c", "-t", table], ["nft", "list", "table", "ip", "own"]]
    bench.places = places(bench.run("", "iptables-nft-save", "-t", table)) + [place for place, _ in fuzz_nft.placed(listed)]
    bench.counts = bench.ask("counting", saves=saves)["counts"]


def said(seen: Seen) -> str:
    """`receiver 10.2.0.5:80 from 10.2.0.1` (the sender's own source is not said), `sender 10.1.0.2 ICMP 3/3`, `nothing`."""
    if not seen.wire:
        return "nothing"
    where, packet = seen.wire[0]
    if packet.quoted is not None:
        return f"{where} {packet.dst} ICMP {packet.icmp_type}/{packet.icmp_code}"
    source = "" if str(packet.src) == "10.1.0.2" else f" from {packet.src}"
    return f"{where} {packet.dst}:{packet.dport}{source}"


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_owners_run_in_priority_order(bench: Bench, row: tuple[str, str, str]) -> None:
    nft, rule, answer = row
    syn = Packet(ip("10.1.0.2"), ip("10.96.0.1"), TCP, sport=40000, dport=80, tcp_flags=SYN, length=40)
    packets = [Sent(SENDER, encode(syn, seq=1000))]
    load(bench, nft, rule)
    seen = play(bench, packets)
    assert said(seen[0]) == answer
    found = judge(Links(model(4, both(nft, rule), {})), packets, seen)
    assert (found.difference, found.agreed) == ("", 1)


def test_a_nodes_own_packet_asks_both_owners_too(bench: Bench) -> None:
    """OUTPUT: nft's -110 before DNAT, its nat at -100, iptables' filter behind them."""
    nft = "output -110 ip daddr 10.2.0.5 counter drop; -t nat output -100 ip daddr 10.96.0.1 counter dnat to 10.2.0.5"
    rule = "filter OUTPUT -d 10.2.0.5/32 -j ACCEPT"
    syn = Packet(ip("10.2.0.1"), ip("10.96.0.1"), TCP, sport=40000, dport=80, tcp_flags=SYN, length=40)
    packets = [Sent(ROUTER, encode(syn, seq=1000))]
    load(bench, nft, rule)
    seen = play(bench, packets)
    assert said(seen[0]) == "receiver 10.2.0.5:80 from 10.2.0.1"
    found = judge(Links(model(4, both(nft, rule), {})), packets, seen)
    assert (found.difference, found.agreed) == ("", 1)
