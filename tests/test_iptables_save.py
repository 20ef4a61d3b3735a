"""iptables-save text: recordings read and write back line for line, every spelling becomes one value, bad text is refused."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from netlab.errors import InputError
from netlab.linux.addr import ip
from netlab.linux.hooks import IPTABLES_TABLES
from netlab.linux.matches import (
    Comment,
    Destination,
    Fragment,
    InInterface,
    Protocol,
    Source,
    Statistic,
    Tcp,
    UnknownMatch,
)
from netlab.linux.rules import Hook, Rule, Ruleset
from netlab.linux.targets import Accept, Ct, Dnat, Jump, NatRange, UnknownTarget
from netlab.linux.text import iptables_save
from netlab.linux.text.iptables_save import parse, parse_rule, write
from netlab.refs import Ref

DATA = Path(__file__).parent / "data"
RECORDED = sorted((DATA / "kube-proxy-1.30.5").glob("*/iptables/*-save"))
WRITTEN = sorted((DATA / "iptables").glob("*-save"))


def family_of(path: Path) -> int:
    return 6 if path.suffix == ".ip6tables-save" else 4


def rules_of(ruleset: Ruleset) -> Iterator[Rule]:
    for table in ruleset.tables:
        for chain in table.chains.values():
            yield from chain.rules


def label(path: Path) -> str:
    return "/".join(path.parts[-3:])


@pytest.mark.parametrize("path", RECORDED + WRITTEN, ids=label)
def test_a_dump_reads_and_writes_back_line_for_line(path: Path) -> None:
    text = path.read_text()
    ruleset = parse(text, family=family_of(path), file=path.name)
    written = write(ruleset, family=family_of(path))
    assert written.splitlines() == [line for line in text.splitlines() if line and line[0] != "#"]
    assert parse(written, family=family_of(path)) == ruleset
    kinds = {type(match) for rule in rules_of(ruleset) for match in rule.matches} | {type(r.target) for r in rules_of(ruleset)}
    assert not kinds & {UnknownMatch, UnknownTarget}
    lines = text.splitlines()
    for rule in rules_of(ruleset):
        assert rule.ref is not None
        assert rule.ref.line is not None
        assert lines[rule.ref.line - 1].endswith(str(rule))


def test_the_recordings_are_all_here() -> None:
    assert len(RECORDED) == 14
    assert len(WRITTEN) == 3


@pytest.mark.parametrize("path", RECORDED + WRITTEN, ids=label)
def test_the_fast_reader_and_the_slow_one_agree(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = parse(path.read_text(), family=family_of(path), file="f")
    monkeypatch.setattr(iptables_save._Reader, "fast", lambda *_: False)
    slow = parse(path.read_text(), family=family_of(path), file="f")
    assert slow == fast
    assert [rule.ref for rule in rules_of(slow)] == [rule.ref for rule in rules_of(fast)]


def test_the_fast_reader_takes_every_line_of_a_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[Rule]:
        raise AssertionError("the slow reader was asked")

    monkeypatch.setattr(iptables_save._Reader, "slow", refuse)
    for path in RECORDED:
        parse(path.read_text(), family=family_of(path))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("table", ["raw", "mangle", "nat", "filter"])
def test_generated_rules_are_their_own_text(table: str, family: int) -> None:
    one = strategies.rules(family, table, None, ["OTHER"])
    if table == "nat":
        one |= st.sampled_from(sorted(IPTABLES_TABLES["nat"], key=lambda hook: hook.value)).flatmap(
            lambda hook: strategies.nat_rules(family, hook)
        )

    @settings(deadline=None)
    @given(one)
    def check(rule: Rule) -> None:
        line = f"-A X {rule}".rstrip()
        assert parse_rule(line, family) == ("X", rule)
        read = parse(f"*{table}\n:X - [0:0]\n:OTHER - [0:0]\n{line}\nCOMMIT\n", family=family)
        assert read.tables[0].chains["X"].rules == (rule,)

    check()


# What iptables-restore reads -> what iptables-save 1.8.9 prints (both backends; IPv4).
SPELLINGS = [
    ("-s 10.1.2.3 -j ACCEPT", "-s 10.1.2.3/32 -j ACCEPT"),
    ("-s 10.1.2.3/8", "-s 10.0.0.0/8"),
    ("-s 10.0.0.0/255.0.0.0", "-s 10.0.0.0/8"),
    ("! -s 10.1.2.3/255.0.255.0", "! -s 10.0.2.0/255.0.255.0"),
    ("-s 10.1/16", "-s 10.1.0.0/16"),
    ("-s 0.0.0.0/0 -i + -p all -j ACCEPT", "-j ACCEPT"),
    ("--protocol tcp --source 1.1.1.1 --dst 2.2.2.2 --in-interface a --out-interface b --jump ACCEPT",
     "-s 1.1.1.1/32 -d 2.2.2.2/32 -i a -o b -p tcp -j ACCEPT"),
    ("-j ACCEPT -p tcp ! -i eth0", "! -i eth0 -p tcp -j ACCEPT"),
    ("-p 6", "-p tcp"), ("-p TCP", "-p tcp"), ("-p 0x6", "-p tcp"), ("-p icmpv6", "-p ipv6-icmp"), ("-p 4", "-p ipencap"),
    ("! -p 200", "! -p 200"), ("-p 103", "-p pim"), ("! -f", "! -f"),
    ("-c 5 6 -j ACCEPT", "-j ACCEPT"), ("-4 -j ACCEPT", "-j ACCEPT"),
    ("-p tcp --dport http", "-p tcp -m tcp --dport 80"),
    ("-p 6 --dport 80 --sport 70 -m comment --comment x", "-p tcp -m tcp --sport 70 --dport 80 -m comment --comment x"),
    ("-p tcp -m comment --comment x --dport 80", "-p tcp -m comment --comment x -m tcp --dport 80"),
    ("-m comment --comment x -p tcp --dport 80", "-p tcp -m comment --comment x -m tcp --dport 80"),
    ("-p tcp -m tcp -m comment --comment x --destination-port 80", "-p tcp -m tcp --dport 80 -m comment --comment x"),
    ("-p tcp --dpo 80", "-p tcp -m tcp --dport 80"), ("-p tcp --dport=80", "-p tcp -m tcp --dport 80"),
    ("-p tcp --dport 0x50", "-p tcp -m tcp --dport 80"), ("-p tcp --dport ssh:http", "-p tcp -m tcp --dport 22:80"),
    ("-p tcp --sport :10 ! --dport 10:", "-p tcp -m tcp --sport 0:10 ! --dport 10:65535"),
    ("-p tcp -m tcp --sport 0:65535", "-p tcp -m tcp"), ("-p tcp -m tcp ! --sport 5:5", "-p tcp -m tcp ! --sport 5"),
    ("-p tcp -m tcp -m tcp --dport 80", "-p tcp -m tcp -m tcp --dport 80"),
    ("-p tcp --syn", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN"),
    ("-p tcp -m tcp ! --syn", "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN"),
    ("-p tcp -m tcp --tcp-flags ALL NONE ! --tcp-option 7",
     "-p tcp -m tcp ! --tcp-option 7 --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE"),
    ("-p tcp -m tcp --tcp-flags NONE NONE", "-p tcp -m tcp"),
    ("-p udp --dport domain", "-p udp -m udp --dport 53"),
    ("-p sctp --chunk-types all INIT,DATA", "-p sctp -m sctp --chunk-types all DATA,INIT"),
    ("-p sctp -m sctp --chunk-types all ASCONF,FORWARD_TSN,ASCONF_ACK,I_DATA,RE_CONFIG,PAD",
     "-p sctp -m sctp --chunk-types all I_DATA,ASCONF_ACK,RE_CONFIG,PAD,FORWARD_TSN,ASCONF"),
    ("-p icmp --icmp-type echo-request", "-p icmp -m icmp --icmp-type 8"),
    ("-p icmp --icmp-type ping", "-p icmp -m icmp --icmp-type 8"),
    ("-p icmp -m icmp --icmp-type host-unknown", "-p icmp -m icmp --icmp-type 3/7"),
    ("-p icmp -m icmp --icmp-type 255/0", "-p icmp -m icmp --icmp-type any"),
    ("-p tcp -m multiport --dports http,ssh,20:21", "-p tcp -m multiport --dports 80,22,20:21"),
    ("-p tcp -m multiport ! --source-ports 1:2,3", "-p tcp -m multiport ! --sports 1:2,3"),
    ("-m mark --mark 017", "-m mark --mark 0xf"), ("-m mark ! --mark 1/0xffffffff", "-m mark ! --mark 0x1"),
    ("-m mark --mark 5 -m connmark --mark 6", "-m mark --mark 0x5 -m connmark --mark 0x6"),
    ("-m state --state NEW,INVALID", "-m state --state INVALID,NEW"),
    ("-m conntrack --ctstate new,established", "-m conntrack --ctstate NEW,ESTABLISHED"),
    ("-m conntrack --ctstatus NONE,ASSURED", "-m conntrack --ctstatus ASSURED"),
    ("-m conntrack --ctstatus NONE", "-m conntrack --ctstatus NONE"),
    ("-m conntrack ! --ctproto tcp --ctorigsrcport http --ctexpire 5: --ctdir REPLY",
     "-m conntrack ! --ctproto 6 --ctorigsrcport 80 --ctexpire 5:4294967295 --ctdir REPLY"),
    ("-m conntrack --ctorigsrc 10.1.2.3/8 ! --ctrepldst 1.2.3.4/32", "-m conntrack --ctorigsrc 10.1.2.3/8 ! --ctrepldst 1.2.3.4"),
    ("-m addrtype --dst-type LOCAL,unicast", "-m addrtype --dst-type UNICAST,LOCAL"),
    ("-m addrtype --src-type LOCAL --limit-iface-out -m addrtype ! --src-type LOCAL --limit-iface-in",
     "-m addrtype --src-type LOCAL --limit-iface-out -m addrtype ! --src-type LOCAL --limit-iface-in"),
    ("-m statistic --mode random --probability 0.33333333333", "-m statistic --mode random --probability 0.33333333349"),
    ("-m statistic --mode random ! --probability 1", "-m statistic --mode random ! --probability 1.00000000000"),
    ("-m statistic --mode nth ! --every 3 --packet 0", "-m statistic --mode nth ! --every 3 --packet 0"),
    ("-m recent ! --rcheck --seconds 5 --reap --hitcount 3 --rttl --rdest --mask 255.255.0.0",
     "-m recent ! --rcheck --seconds 5 --reap --hitcount 3 --rttl --name DEFAULT --mask 255.255.0.0 --rdest"),
    ("-m physdev ! --physdev-in eth0 --physdev-is-in --physdev-is-bridged",
     "-m physdev --physdev-is-in ! --physdev-in eth0 --physdev-is-bridged"),
    ("-m iprange --src-range 1.1.1.1", "-m iprange --src-range 1.1.1.1-1.1.1.1"),
    ("-m owner --gid-owner 3 --suppl-groups ! --uid-owner root ! --socket-exists",
     "-m owner ! --socket-exists ! --uid-owner 0 --gid-owner 3 --suppl-groups"),
    ("-m mac ! --mac-source AA:bb:cc:dd:ee:0F", "-m mac ! --mac-source aa:bb:cc:dd:ee:0f"),
    ("-m ttl ! --ttl 64", "-m ttl ! --ttl-eq 64"), ("-m length --length 5:", "-m length --length 5:65535"),
    ("-m limit", "-m limit --limit 3/hour"),
    ("-m limit --limit 60/minute --limit-burst 7", "-m limit --limit 1/sec --limit-burst 7"),
    ("-m limit --limit 5000/m", "-m limit --limit 83/sec"), ("-m limit --limit 5", "-m limit --limit 5/sec"),
    ("-m hashlimit ! --hashlimit-upto 3/sec --hashlimit-name f5",
     "-m hashlimit --hashlimit-above 3/sec --hashlimit-burst 5 --hashlimit-name f5"),
    ("-m hashlimit --hashlimit-name h --hashlimit-mode dstport,srcip --hashlimit 3/sec --hashlimit-srcmask 24 "
     "--hashlimit-htable-size 64",
     "-m hashlimit --hashlimit-upto 3/sec --hashlimit-burst 5 --hashlimit-mode srcip,dstport --hashlimit-name h "
     "--hashlimit-htable-size 64 --hashlimit-srcmask 24"),
    ("-m ipvs --vport 80 --vaddr 10.0.0.1/32 --vproto tcp", "-m ipvs --vproto 6 --vaddr 10.0.0.1 --vport 80"),
    ("-m pkttype ! --pkt-type host", "-m pkttype ! --pkt-type unicast"),
    ("-m set ! --match-set KUBE-CLUSTER-IP dst,dst", "-m set ! --match-set KUBE-CLUSTER-IP dst,dst"),
    ("-m set --set lan src --return-nomatch ! --update-counters",
     "-m set --match-set lan src --return-nomatch ! --update-counters"),
    ('-m comment --comment "plain"', "-m comment --comment plain"),
    ("-m comment --comment a:b", '-m comment --comment "a:b"'),
    ('-m comment --comment "say \\"no\\" \\\\ it\'s"', '-m comment --comment "say \\"no\\" \\\\ it\\\'s"'),
    ('-m comment --comment ""', '-m comment --comment ""'), ("-m comment --comment -j", "-m comment --comment -j"),
    ('-m comment --comment "-j DROP -m mark" -j ACCEPT', '-m comment --comment "-j DROP -m mark" -j ACCEPT'),
    ("-j REJECT", "-j REJECT --reject-with icmp-port-unreachable"),
    ("-j REJECT --reject-with host-prohib", "-j REJECT --reject-with icmp-host-prohibited"),
    ("-p tcp -j REJECT --reject-with tcp-rst", "-p tcp -j REJECT --reject-with tcp-reset"),
    ("-p tcp -j DNAT --to-destination 1.2.3.4-1.2.3.4:http-80", "-p tcp -j DNAT --to-destination 1.2.3.4:80"),
    ("-p tcp -j DNAT --to-destination :1000-2000/3000 --persistent --random",
     "-p tcp -j DNAT --to-destination :1000-2000/3000 --random --persistent"),
    ("-j SNAT --to-source 1.2.3.4-1.2.3.8 --random-fully", "-j SNAT --to-source 1.2.3.4-1.2.3.8 --random-fully"),
    ("-p tcp -j MASQUERADE --to-port 1024-65535 --random", "-p tcp -j MASQUERADE --to-ports 1024-65535 --random"),
    ("-p tcp -j REDIRECT --to-ports 80-80", "-p tcp -j REDIRECT --to-ports 80"),
    ("-j NETMAP --to 1.2.3.5/24", "-j NETMAP --to 1.2.3.0/24"), ("-j NETMAP --to 1.2.3.5", "-j NETMAP --to 1.2.3.5/32"),
    ("-j MARK --set-mark 1", "-j MARK --set-xmark 0x1/0xffffffff"), ("-j MARK --set-mark 1/2", "-j MARK --set-xmark 0x1/0x3"),
    ("-j MARK --or-mark 0x8000", "-j MARK --set-xmark 0x8000/0x8000"),
    ("-j MARK --and-mark 0xff", "-j MARK --set-xmark 0x0/0xffffff00"),
    ("-j MARK --xor-mark 0xff", "-j MARK --set-xmark 0xff/0x0"), ("-j MARK --set-xmark 1", "-j MARK --set-xmark 0x1/0xffffffff"),
    ("-j CONNMARK --set-mark 1/2", "-j CONNMARK --set-xmark 0x1/0x3"),
    ("-j CONNMARK --restore-mark --mask 0xff", "-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff"),
    ("-j CONNMARK --save-mark --ctmask 1", "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0x1"),
    ("-j CT --zone 5 --ctevents new --helper ftp", "-j CT --helper ftp --ctevents new --zone 5"),
    ("-j CT --zone-reply 0", "-j CT"), ("-j CT --notrack", "-j CT --notrack"), ("-j NOTRACK", "-j NOTRACK"),
    ("-p tcp -j TPROXY --on-port 80 --tproxy-mark 1",
     "-p tcp -j TPROXY --on-port 80 --on-ip 0.0.0.0 --tproxy-mark 0x1/0xffffffff"),
    ("-j LOG --log-uid --log-level debug --log-prefix foo", "-j LOG --log-prefix foo --log-level 7 --log-uid"),
    ("-j LOG --log-level warning", "-j LOG"),
    ('-j NFLOG --nflog-group 5 --nflog-prefix "a b: "', '-j NFLOG --nflog-prefix "a b: " --nflog-group 5'),
    ("-j SET --timeout 5 --exist --add-set lan src", "-j SET --add-set lan src --exist --timeout 5"),
    ("-p tcp --syn -j TCPMSS --clamp-mss-to-pmtu", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j TCPMSS --clamp-mss-to-pmtu"),
]  # fmt: skip

SPELLINGS_6 = [
    ("-s fd00::1", "-s fd00::1/128"), ("! -d fe80::1/ffff::ff", "! -d fe80::1/ffff::ff"), ("-s ::/0", ""),
    ("-p icmpv6 --icmpv6-type echo-request", "-p ipv6-icmp -m icmp6 --icmpv6-type 128"),
    ("-p 58 -m icmpv6 ! --icmpv6-type 1/4", "-p ipv6-icmp -m icmp6 ! --icmpv6-type 1/4"),
    ("-p ipv6-mh", "-p mobility-header"), ("-m hl ! --hl-eq 64", "-m hl ! --hl-eq 64"),
    ("-m recent --set --name A", "-m recent --set --name A --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff --rsource"),
    ("-j REJECT", "-j REJECT --reject-with icmp6-port-unreachable"),
    ("-j REJECT --reject-with adm-prohibited", "-j REJECT --reject-with icmp6-adm-prohibited"),
    ("-p tcp -j DNAT --to-destination [fd00::1]:80", "-p tcp -j DNAT --to-destination [fd00::1]:80"),
    ("-j DNAT --to-destination [fd00::1]", "-j DNAT --to-destination fd00::1"),
    ("-p tcp -j DNAT --to-destination fd00::1:80", "-p tcp -j DNAT --to-destination fd00::1:80"),
    ("-p tcp -j DNAT --to-destination [fd00::1-fd00::5]:80-90", "-p tcp -j DNAT --to-destination [fd00::1-fd00::5]:80-90"),
    ("-j NETMAP --to fd00::5", "-j NETMAP --to fd00::5/128"),
    ("-p tcp -j TPROXY --on-port 80", "-p tcp -j TPROXY --on-port 80 --on-ip :: --tproxy-mark 0x0/0x0"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "given", "printed"),
    [(4, *row) for row in SPELLINGS] + [(6, *row) for row in SPELLINGS_6],
)
def test_every_spelling_becomes_what_the_tool_prints(family: int, given: str, printed: str) -> None:
    _, rule = parse_rule(f"-A X {given}", family)
    assert str(rule) == printed
    assert parse_rule(f"-A X {printed}".rstrip(), family)[1] == rule
    in_a_file = parse(f"*filter\n:X - [0:0]\n-A X {given}\nCOMMIT\n", family=family)
    assert in_a_file.tables[0].chains["X"].rules == (rule,)


UNMODELLED = [
    ('-m string --algo bm --string "a b" --to 50 -m mark --mark 1',
     '-m string --algo bm --string "a b" --to 50 -m mark --mark 0x1'),
    ("-m time ! --timestart 01:00 -j ACCEPT", "-m time ! --timestart 01:00 -j ACCEPT"),
    ("-m socket --transparent -p tcp -j ACCEPT", "-p tcp -m socket --transparent -j ACCEPT"),
    ("-p esp --espspi 5", "-p esp -m esp --espspi 5"),
    ("-j NFQUEUE --queue-num 3 --queue-bypass", "-j NFQUEUE --queue-num 3 --queue-bypass"),
    ("-j AUDIT --type accept", "-j AUDIT --type accept"),
    ("-j NEWTARGET --with option", "-j NEWTARGET --with option"),
    ("-j CT --zone mark", "-j CT --zone mark"),
    ("-j CONNMARK --set-xmark 1/2 --left-shift-mark 3", "-j CONNMARK --set-xmark 0x1/0x2 --left-shift-mark 3"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "printed"), UNMODELLED)
def test_what_is_not_modelled_keeps_its_text(given: str, printed: str) -> None:
    _, rule = parse_rule(f"-A X {given}", 4)
    assert str(rule) == printed
    assert any(isinstance(part, (UnknownMatch, UnknownTarget)) for part in (*rule.matches, rule.target))
    assert parse_rule(f"-A X {printed}", 4)[1] == rule


def test_the_values_are_the_kernels() -> None:
    _, rule = parse_rule(
        "-A KUBE-SEP-X ! -s 10.244.0.0/16 -i eth+ -p tcp ! -f -m comment --comment \"a b\" -m tcp --dport 80 "
        "-j DNAT --to-destination 10.244.0.4:8080",
        4,
    )  # fmt: skip
    assert rule == Rule(
        (
            Source(4, 0x0AF40000, 0xFFFF0000, True),
            InInterface("eth+"),
            Protocol(6),
            Fragment(True),
            Comment("a b"),
            Tcp(dport=strategies.PortRange(80, 80)),
        ),
        Dnat(NatRange(ip("10.244.0.4"), port_low=8080)),
    )
    assert parse_rule("-A X -m statistic --mode random --probability 0.5", 4)[1].matches == (Statistic(threshold=2**30),)
    assert parse_rule("-A X -j NOTRACK", 4)[1].target == Ct(notrack=True, bare=True)
    assert parse_rule("-A X -g OTHER", 4)[1].target == Jump("OTHER", goto=True)


def test_tables_and_chains_get_hook_priority_and_policy() -> None:
    text = """# Generated by iptables-save
# Warning: iptables-legacy tables present, use iptables-legacy-save to see them
*nat
:PREROUTING ACCEPT [10:20]
:INPUT ACCEPT
:MINE - [0:0]
[5:300] -A PREROUTING -j MINE
[0:0] -A MINE -p tcp -m comment --comment "two words" -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1

COMMIT
*filter
:FORWARD DROP [0:0]
-A INPUT -j ACCEPT
COMMIT
# Completed
"""
    for ends in ("\n", "\r\n"):
        ruleset = parse(text.replace("\n", ends), family=4, file="dump", origin="expected")
        nat, filter_ = ruleset.tables
        assert (ruleset.origin, nat.family, nat.name, filter_.name) == ("expected", "ip", "nat", "filter")
        shape = [(c.name, c.hook, c.priority, c.policy, len(c.rules)) for t in ruleset.tables for c in t.chains.values()]
        assert shape == [
            ("PREROUTING", Hook.PREROUTING, -100, "ACCEPT", 1),
            ("INPUT", Hook.INPUT, 100, "ACCEPT", 0),
            ("MINE", None, 0, None, 1),
            ("FORWARD", Hook.FORWARD, 0, "DROP", 0),
            ("INPUT", Hook.INPUT, 0, "ACCEPT", 1),
        ]
        assert nat.chains["MINE"].rules[0].ref == Ref("dump", 8)
    assert parse("# nothing is loaded\n", family=6) == Ruleset((), "observed")


def test_what_hand_written_files_have() -> None:
    text = """*filter
-P INPUT DROP
-N mine
-A INPUT -s 10.0.0.1,10.0.0.2 -d 1.1.1.1,2.2.2.0/24 -j ACCEPT
-I INPUT -i lo -j ACCEPT
-I INPUT 2 -j mine
-A INPUT -6 -j DROP
-A mine -4 -j RETURN
COMMIT
"""
    table = parse(text, family=4).tables[0]
    assert table.chains["INPUT"].policy == "DROP"
    assert [str(rule) for rule in table.chains["INPUT"].rules] == [
        "-i lo -j ACCEPT",
        "-j mine",
        "-s 10.0.0.1/32 -d 1.1.1.1/32 -j ACCEPT",
        "-s 10.0.0.1/32 -d 2.2.2.0/24 -j ACCEPT",
        "-s 10.0.0.2/32 -d 1.1.1.1/32 -j ACCEPT",
        "-s 10.0.0.2/32 -d 2.2.2.0/24 -j ACCEPT",
    ]
    assert [rule.ref.line for rule in table.chains["INPUT"].rules if rule.ref] == [5, 6, 4, 4, 4, 4]


def test_chains_are_written_in_the_order_of_the_tool() -> None:
    text = "*nat\n:z - [0:0]\n:OUTPUT ACCEPT [1:2]\n:A - [0:0]\n:PREROUTING ACCEPT [0:0]\n-A z -j RETURN\n-A A -j z\nCOMMIT\n"
    assert write(parse(text, family=6), family=6, comment_lines=["node-1"]).splitlines() == [
        "# node-1",
        "*nat",
        ":PREROUTING ACCEPT [0:0]",
        ":OUTPUT ACCEPT [0:0]",
        ":A - [0:0]",
        ":z - [0:0]",
        "-A A -j z",
        "-A z -j RETURN",
        "COMMIT",
    ]


def test_nftables_tables_are_not_written_as_iptables() -> None:
    ruleset = parse("*filter\nCOMMIT\n", family=4)
    with pytest.raises(InputError, match="cannot be written for ip6tables-save"):
        write(ruleset, family=6)


def table(rule: str, name: str = "filter") -> str:
    return f"*{name}\n:OUTPUT ACCEPT [0:0]\n:X - [0:0]\n{rule}\nCOMMIT\n"


# text, line, what the message says
REFUSED = [
    ("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\n", 3, "table filter has no COMMIT"),
    ("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m comm", 3, "cut off"),
    ("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -s 10.", 3, "cut off"),
    ('*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m comment --comment "kuber', 3, "cut off"),
    ("*filter\n:INPUT ACCEPT [0:0]\n:KUBE-SER", 3, "cut off"),
    ("*filter\n*nat\nCOMMIT\n", 2, "table filter has no COMMIT before [*]nat"),
    ("COMMIT\n", 1, "COMMIT outside a table"),
    ("*fitler\nCOMMIT\n", 1, 'did you mean "filter"'),
    ("*filter\nCOMMIT\n*nat\nCOMMIT\n*filter\nCOMMIT\n", 5, "table filter is here twice, first at line 1"),
    ("*filter\n:X - [0:0]\n:X - [0:0]\nCOMMIT\n", 3, "chain X is declared twice"),
    ("*filter\n:X ACCEPT [0:0]\nCOMMIT\n", 2, "chain X cannot have a policy"),
    ("*filter\n:INPUT QUEUE [0:0]\nCOMMIT\n", 2, "policy 'QUEUE' of chain INPUT"),
    ("*filter\n:INPUT\nCOMMIT\n", 2, "not a chain declaration"),
    ("*filter\n:abcdefghijklmnopqrstuvwxyz012 - [0:0]\nCOMMIT\n", 2, "not a chain name"),
    ("*filter\n:KUBE-SVC - [0:0]\n-A KUBE-SCV -j DROP\nCOMMIT\n", 3, 'did you mean "KUBE-SVC"'),
    ("*filter\n:X - [0:0]\n:Y - [0:0]\n-A X -j Y\n-A X -j Z\nCOMMIT\n", 5, "chain Z, which X jumps to, is not in table filter"),
    ("*filter\n:X - [0:0]\n-A X -g ACCEPT\nCOMMIT\n", 3, "chain ACCEPT, which X jumps to, is not"),
    ("*filter\n:X - [0:0]\n:INPUT ACCEPT [0:0]\n-A X -j INPUT\nCOMMIT\n", 4, "jumps to the built-in chain INPUT"),
    ("*filter\n:A - [0:0]\n:B - [0:0]\n:C - [0:0]\n-A A -j B\n-A B -j C\n-A C -g B\nCOMMIT\n", 7, "loop: B -> C -> B"),
    ("*filter\n:A - [0:0]\n-A A -j A\nCOMMIT\n", 3, "loop: A -> A"),
    ("*filter\n# Table `nat' is incompatible, use 'nft' tool.\nCOMMIT\n", 2, "left a table out"),
    ("table ip filter {\n}\n", 1, "nftables text"),
    ("Chain INPUT (policy ACCEPT)\n", 1, "iptables -L"),
    ("-P INPUT ACCEPT\n", 1, "a rule outside a table"),
    ("create x hash:ip\n", 1, "ipset save"),
    ('{"nftables": []}\n', 1, "expected the output of iptables-save"),
    ("hello\nworld\n", 1, "begins with a table such as [*]nat"),
    (table("FOO"), 4, "not a line of iptables-save"),
    (table("-D OUTPUT -j ACCEPT"), 4, "not a line of iptables-save"),
    (table("-A X -s ::1 -j ACCEPT"), 4, "::1 is an IPv6 address, this text is read as iptables-save"),
    (table("-A X -d 10.0.0.0/33 -j ACCEPT"), 4, "not a prefix length"),
    (table("-A X -s 10.0.0.256"), 4, "not an IPv4 address"),
    (table("-A X -s 010.0.0.1"), 4, "not an IPv4 address"),
    (table("-A X -s example"), 4, "names are not looked up"),
    (table("-A X -s ! 10.0.0.1"), 4, "write ! before it: ! -s"),
    (table("-A X -s 1.1.1.1 -s 2.2.2.2"), 4, "-s is given twice"),
    (table("-A X -i abcdefghijklmnop"), 4, "not an interface name"),
    (table("-A X -p tpc"), 4, "unknown protocol 'tpc'"),
    (table("-A X ! -p all"), 4, "never match"),
    (table("-A X -p"), 4, "-p needs a value"),
    (table("-A X -p tcp --dport"), 4, "--dport needs a value"),
    (table("-A X --dport 80"), 4, "needs -p tcp, -p udp or -p sctp before it"),
    (table("-A X -p icmp --dport 80"), 4, "unknown option --dport"),
    (table("-A X -m tcp --dport 80"), 4, "-m tcp needs -p tcp"),
    (table("-A X ! -p tcp -m tcp --dport 80"), 4, "-m tcp needs -p tcp"),
    (table("-A X -p tcp -m udp --dport 80"), 4, "-m udp needs -p udp"),
    (table("-A X -p tcp --dport 65536"), 4, "not a port: '65536'"),
    (table("-A X -p tcp --dport 080"), 4, "not a port"),
    (table("-A X -p tcp --dport 90:80"), 4, "runs backwards"),
    (table("-A X -p tcp --dport htpt"), 4, "unknown port name 'htpt'"),
    (table("-A X -p tcp --dport 80 --dport 81"), 4, "--dport is given twice"),
    (table("-A X -p tcp --syn --tcp-flags SYN SYN"), 4, "exclude each other"),
    (table("-A X -p tcp --tcp-flags SYN FOO"), 4, "unknown TCP flag 'FOO'"),
    (table("-A X -p icmp --icmp-type 300"), 4, "not an ICMP type"),
    (table("-A X -p icmp --icmp-type pin"), 4, "unknown ICMP type"),
    (table("-A X -p icmp -m icmp6 --icmpv6-type 1"), 4, "IPv6 rules alone"),
    (table("-A X -m multiport --dports 80"), 4, "-m multiport needs -p tcp"),
    (table("-A X -p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16"), 4, "at most 15 ports"),
    (table("-A X -m mark --mark 0x100000000"), 4, "not a mark"),
    (table("-A X -m mark"), 4, "-m mark needs --mark"),
    (table("-A X -m conntrack --ctstate FOO"), 4, "unknown connection state"),
    (table("-A X -m conntrack ! --ctdir REPLY"), 4, "--ctdir cannot be negated"),
    (table("-A X --ctstate NEW"), 4, "it needs -m conntrack before it"),
    (table("-A X -m addrtype --src-type LOKAL"), 4, "unknown address type"),
    (table("-A X -m statistic --mode random --probability 1.5"), 4, "not a probability"),
    (table("-A X -m statistic --mode nth --every 3 --packet 3"), 4, "not below"),
    (table("-A X -m limit --limit 5/fortnight"), 4, "not a rate"),
    (table("-A X -m limit --limit 10001/s"), 4, "too fast"),
    (table("-A X -m recent --set --update"), 4, "exactly one of"),
    (table("-A X -m set --match-set lan up"), 4, "not set directions"),
    (table("-A X -m mac --mac-source 0:1:2"), 4, "not a MAC"),
    (table('-A X -m comment --comment "kube'), 4, "unterminated quote"),
    (table('-A X -m comment --comment "a"b -j DROP'), 4, "'b' is not part of an option"),
    (table(f"-A X -m comment --comment {'x' * 256}"), 4, "longer than 255"),
    (table("-A X -m comment --comment two words"), 4, "text with spaces needs double quotes"),
    (table("-A X ! ! -p tcp"), 4, "two ! in a row"),
    (table("-A X -p tcp !"), 4, "nothing follows the !"),
    (table("-A X ! -j DROP"), 4, "-j cannot be negated"),
    (table("-A X -j ACCEPT -j DROP"), 4, "-j is given twice"),
    (table("-A X -j ACCEPT foo"), 4, "'foo' is not part of an option"),
    (table("-A X -j"), 4, "-j needs a value"),
    (table("-A X -j REJECT --reject-with icmp-foo"), 4, "unknown kind of REJECT"),
    (table("-A X -j REJECT --reject-with tcp-reset"), 4, "needs -p tcp"),
    (table("-A X -j DNAT", "nat"), 4, "-j DNAT needs --to-destination"),
    (table("-A X -j DNAT --to-destination 1.1.1.1:80", "nat"), 4, "needs -p tcp"),
    (table("-A X -p tcp -j DNAT --to-destination 1.1.1.1:80:90", "nat"), 4, "not a port"),
    (table("-A X -p tcp -j DNAT --to-destination [fd00::1]:80", "nat"), 4, "not an IPv4 address"),
    (table("-A X -j MARK --set-mark abc"), 4, "not a mark: 'abc'"),
    (table("-A X -j MARK --set-mark 1 --or-mark 2"), 4, "exactly one of"),
    (table("-A X -j MARK"), 4, "-j MARK needs one of"),
    (table("-A X -j accept"), 4, "chain accept, which X jumps to, is not in table filter"),
]


@pytest.mark.parametrize(("text", "line", "says"), REFUSED)
def test_bad_text_is_refused_with_file_and_line(text: str, line: int, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        parse(text, family=4, file="node.save")
    assert caught.value.ref == Ref("node.save", line)


def test_an_ipv4_address_in_ip6tables_save_says_so() -> None:
    with pytest.raises(InputError, match=r"10\.0\.0\.1 is an IPv4 address, this text is read as ip6tables-save"):
        parse(table("-A X -s 10.0.0.1"), family=6)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_cut_or_mangled_dump_is_read_or_refused_never_a_crash(data: st.DataObject) -> None:
    text = (DATA / "iptables" / "docker.iptables-save").read_text()
    at = data.draw(st.integers(0, len(text)))
    if data.draw(st.booleans()):
        broken = text[:at]
    else:
        broken = text[:at] + data.draw(st.text(st.sampled_from('!-:*"\\ \n\tA1/,=[]é'), min_size=1, max_size=4)) + text[at:]
    refused: InputError | None = None
    try:
        parse(broken, family=4, file="f")
    except InputError as error:
        refused = error
    assert refused is None or (refused.ref is not None and 0 < (refused.ref.line or 0) <= broken.count("\n") + 1)


def test_the_collector_is_as_it_was() -> None:
    for text in ("*filter\nCOMMIT\n", "*nope\n"):
        for enabled in (True, False):
            (gc.enable if enabled else gc.disable)()
            try:
                parse(text, family=4)
            except InputError:
                pass
            finally:
                after = gc.isenabled()
                gc.enable()
            assert after is enabled


def test_one_rule() -> None:
    assert parse_rule("-A INPUT", 4) == ("INPUT", Rule())
    chain, rule = parse_rule("-A INPUT -d 10.0.0.0/8 -j ACCEPT", 4, Ref("here", 7))
    assert (chain, rule, rule.ref) == ("INPUT", Rule((Destination(4, 10 << 24, 255 << 24),), Accept()), Ref("here", 7))
    for text, says in (("-I INPUT", "expected -A CHAIN"), ("-A INPUT -s 1.1.1.1,2.2.2.2", "several addresses"), ("", "expected")):
        with pytest.raises(InputError, match=says):
            parse_rule(text, 4)
