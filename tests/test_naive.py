"""Does a match hold? Rows of (rule, what is different about the packet, answer). The kernel's own answers: tests/kernel."""

from __future__ import annotations

import typing
from fractions import Fraction

import msgspec
import pytest

from netlab.linux import matches
from netlab.linux.addr import ip, prefix
from netlab.linux.conntrack import Connection, CtState, CtView
from netlab.linux.matches import Match
from netlab.linux.netns import Address, Device, DeviceKind, Netns, NetnsKind, NextHop, PolicyRule, Route
from netlab.linux.packet import Flow, Packet
from netlab.linux.rules import Hook, Rule
from netlab.linux.sets import IpSet, SetEntry
from netlab.linux.text.iptables_save import parse_rule
from netlab.match.ipset import contains
from netlab.match.lowered import LoweredMatch
from netlab.match.naive import HOLDS, holds, rule_holds
from netlab.match.view import Answer, Chance, Undecided, View
from netlab.refs import Ref

LO = Device("lo", DeviceKind.LOOPBACK, 1, addresses=(Address(ip("127.0.0.1"), 8, "host"), Address(ip("::1"), 128, "host")))
ETH0 = Device(
    "eth0", DeviceKind.VETH, 2, "02:00:00:00:00:01", addresses=(Address(ip("10.0.0.1"), 24), Address(ip("fd00::1"), 64))
)
NODE = Netns(
    "node-1",
    NetnsKind.NODE,
    {"lo": LO, "eth0": ETH0},
    (Route(prefix("10.0.0.0/24"), (NextHop("eth0"),)), Route(prefix("fd00::/64"), (NextHop("eth0"),))),
)
SYN = Packet(ip("10.0.0.2"), ip("10.0.0.3"), 6, 40000, 80, tcp_flags=2, length=60)
SYN6 = msgspec.structs.replace(SYN, src=ip("fd00::2"), dst=ip("fd00::3"))


def rule(text: str, family: int = 4) -> Rule:
    return parse_rule(f"-A X {text}", family, Ref())[1]


def view(packet: Packet = SYN, **options: typing.Any) -> View:
    given: dict[str, typing.Any] = {"hook": Hook.PREROUTING, "netns": NODE, "indev": "eth0"} | options
    return View(packet, **given)


def shown(answer: Answer) -> object:
    """True, False, a Fraction for Chance, the reason for Undecided."""
    if isinstance(answer, Chance):
        return answer.probability
    return answer.reason if isinstance(answer, Undecided) else answer


def test_every_match_of_the_rule_ir_has_a_function() -> None:
    assert set(HOLDS) == set(typing.get_args(LoweredMatch))
    of_iptables = set(typing.get_args(Match))
    here = [kind for kind in vars(matches).values() if isinstance(kind, type)]
    written = {kind for kind in here if kind.__module__ == matches.__name__}
    assert of_iptables == written - {matches.PortRange, matches.AddressMask}, "a match class is missing from the union"


RANDOM = "the source port was chosen at random by NAT"


@pytest.mark.parametrize(
    ("text", "packet", "answer"),
    [
        # a port that NAT chose at random is known only where every port will do, or where another part fails
        ("-p tcp -m tcp --sport 40000", {"sport_random": True}, RANDOM),
        ("-p tcp -m tcp ! --sport 1:65535", {"sport_random": True}, RANDOM),
        ("-p tcp -m tcp --sport 0:65535", {"sport_random": True}, True),
        ("-p tcp -m tcp --sport 40000 --dport 81", {"sport_random": True}, False),
        ("-p tcp -m tcp --sport 40000 --tcp-flags ACK ACK", {"sport_random": True}, False),
        ("-p tcp -m tcp --dport 80", {"sport_random": True}, True),
        ("-p tcp -m multiport --sports 1,2", {"sport_random": True}, RANDOM),
        ("-p tcp -m multiport --ports 80", {"sport_random": True}, True),
        ("-p tcp -m multiport --ports 81", {"sport_random": True}, RANDOM),
        ("-p tcp -m multiport ! --ports 80", {"sport_random": True}, False),
        ("-p tcp -m multiport --dports 81", {"sport_random": True}, False),
        # what packets of netlab do not carry
        ("-p tcp -m tcp --tcp-option 2", {}, "tcp option 2: options of TCP packets are not modelled"),
        ("-p tcp -m tcp --dport 81 --tcp-option 2", {}, False),
        ("-p sctp -m sctp --chunk-types all INIT", {}, False),
        ("-f", {}, False),
        ("! -f", {}, True),
        ("-m limit --limit 5/min", {}, "limit 5/min: the rate of other packets is not known"),
        ("-m mac --mac-source 02:00:00:00:00:02", {}, "the source MAC of the packet is not known"),
        ("-m mac --mac-source 02:00:00:00:00:02", {"src_mac": "02:00:00:00:00:02"}, True),
        ("-m conntrack --ctstate NEW --ctexpire 5", {}, False),
        # where nothing says what the frame was, a packet to one host came in a frame to one host
        ("-m pkttype --pkt-type unicast", {}, True),
        ("-m pkttype --pkt-type broadcast", {"dst": ip("10.0.0.255")}, True),
        ("-m pkttype --pkt-type multicast", {"dst": ip("224.0.0.1")}, True),
        # masks and values are compared as they are: a value with bits outside its mask never matches
        ("-m mark --mark 0x5/0x1", {"mark": 5}, False),
        ("-m mark ! --mark 0x5/0x1", {"mark": 5}, True),
    ],
)
def test_packets(text: str, packet: dict[str, typing.Any], answer: object) -> None:
    assert shown(rule_holds(rule(text), view(msgspec.structs.replace(SYN, **packet)))) == answer


def test_unknown_match_is_undecided_and_named() -> None:
    assert shown(rule_holds(rule("-m ecn --ecn-tcp-ece"), view())) == "match ecn is not modelled"
    assert rule_holds(rule("-d 10.9.9.9/32 -m ecn --ecn-tcp-ece"), view()) is False


@pytest.mark.parametrize(
    ("text", "ct", "answer"),
    [
        # no connection: only the state counts; without a state nothing holds, negated or not
        ("-m conntrack --ctstate INVALID", None, True),
        ("-m conntrack --ctstate INVALID --ctproto 17", None, True),
        ("-m conntrack ! --ctorigsrc 10.9.9.9", None, False),
        ("-m conntrack --ctstate UNTRACKED", CtView(CtState.UNTRACKED), True),
        ("-m conntrack --ctstate INVALID", CtView(CtState.UNTRACKED), False),
        ("-m connmark ! --mark 0x1", None, False),
        ("-m state --state INVALID", None, True),
        ("-m conntrack --ctstate DNAT", "nat", True),
        ("-m state --state NEW", "nat", True),
        ("-m conntrack ! --ctstate SNAT,DNAT", "nat", False),
        ("-m conntrack --ctorigdst 10.0.0.3 --ctreplsrc 10.0.0.9 --ctreplsrcport 8080", "nat", True),
        ("-m conntrack --ctrepldstport 40000", "nat", True),
        ("-m conntrack --ctrepldstport 40000", "random", RANDOM),
        ("-m conntrack --ctrepldstport 0:65535", "random", True),
        ("-m conntrack --ctrepldstport 40000 --ctproto 17", "random", False),
        ("-m conntrack --ctexpire 1:5", "nat", "conntrack expire: the time that a connection has left is not modelled"),
        ("-m conntrack --ctstatus NONE", "nat", False),
        ("-m conntrack --ctdir REPLY", "nat", False),
    ],
)
def test_connections(text: str, ct: CtView | str | None, answer: object) -> None:
    if isinstance(ct, str):
        reply = Flow(6, ip("10.0.0.9"), 8080, ip("10.0.0.2"), 40000)
        ct = CtView(CtState.NEW, Connection(SYN.flow, reply, dnat=True, random_port=ct == "random"))
    assert shown(rule_holds(rule(text), view(ct=ct))) == answer


@pytest.mark.parametrize(
    ("text", "options", "answer"),
    [
        ("-i eth0", {"indev": "", "outdev": "eth0"}, False),
        ("! -i eth0", {"indev": ""}, True),
        ("-i +", {"indev": ""}, True),
        ("! -i +", {"indev": ""}, False),
        ("-o cali+", {"outdev": "cali123"}, True),
        ("-o cali+", {"outdev": "cali"}, True),
        ("-m owner --socket-exists", {"local": False}, False),
        ("-m owner ! --uid-owner 0", {"local": False}, True),
        ("-m owner --uid-owner 0", {"local": False}, False),
        ("-m owner --socket-exists", {"local": True}, True),
        ("-m owner ! --socket-exists ! --uid-owner 0", {"local": True}, False),
        ("-m owner --uid-owner 0", {"local": True}, "owner: the user and group of a process are not modelled"),
        ("-m physdev ! --physdev-out p1", {"physin": "p0"}, False),  # bridged, port out unknown: not even negated
        ("-m physdev ! --physdev-out p1", {}, True),
        ("-m physdev --physdev-is-bridged", {"physin": "p0", "physout": "p1"}, True),
        ("-m mac ! --mac-source 02:00:00:00:00:02", {"indev": "lo"}, False),
        ("-m rpfilter", {"indev": "lo"}, True),
        ("-m rpfilter --invert", {"indev": "lo"}, False),
        ("-m rpfilter", {"indev": "nope"}, "rpfilter: device 'nope' is not known"),
    ],
)
def test_devices_and_sockets(text: str, options: dict[str, typing.Any], answer: object) -> None:
    assert shown(rule_holds(rule(text), view(**options))) == answer


def test_ipv6_addrtype_asks_all_policy_rules() -> None:
    strange = msgspec.structs.replace(NODE, rules=(PolicyRule(5, 100, 6, unknown="tos 0x10"),), cache={})
    asked = rule("-m addrtype --dst-type LOCAL", 6)
    assert rule_holds(asked, view(SYN6)) is False
    assert shown(rule_holds(asked, view(SYN6, netns=strange))) == "ip rule 5: tos 0x10"
    assert rule_holds(rule("-m addrtype --dst-type LOCAL --src-type MULTICAST", 6), view(SYN6, netns=strange)) is False


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("-m statistic --mode random --probability 0.50000000000", Fraction(1, 2)),
        ("-m statistic --mode random ! --probability 0.25000000000", Fraction(3, 4)),
        ("-m statistic --mode random --probability 0.33333333349", Fraction(715827883, 1 << 31)),
        ("-m statistic --mode random --probability 1.00000000000", True),
        ("-m statistic --mode random --probability 0.00000000000", False),
        ("-m statistic --mode nth --every 3 --packet 0", Fraction(1, 3)),
        ("-m statistic --mode nth ! --every 3 --packet 0", Fraction(2, 3)),
        ("-m statistic --mode nth --every 1 --packet 0", True),
        # a conjunction: False beats Undecided beats Chance, wherever they stand; chances multiply
        (
            "-m statistic --mode random --probability 0.50000000000 -m statistic --mode random ! --probability 0.25000000000",
            Fraction(3, 8),
        ),
        ("-m statistic --mode random --probability 0.50000000000 -m mark --mark 0x1", False),
        ("-m ecn --ecn-tcp-ece -m statistic --mode random --probability 0.50000000000 -m mark --mark 0x1", False),
        ("-m statistic --mode random --probability 0.50000000000 -m ecn --ecn-tcp-ece", "match ecn is not modelled"),
        ("-m ecn --ecn-tcp-ece -m limit --limit 5/min", "match ecn is not modelled"),
        ("", True),
    ],
)
def test_chances(text: str, answer: object) -> None:
    assert shown(rule_holds(rule(text), view())) == answer


RECENT = "-m recent --{} --name sep --mask 255.255.255.255 --rsource"
LISTED, NOT_SURE = ("sep", SYN.src.value), "recent sep: whether the address is listed is not certain"


def test_recent_remembers_what_the_walk_has_set() -> None:
    seen: set[tuple[str, int]] = set()

    def ask(text: str, packet: Packet = SYN) -> object:
        return shown(rule_holds(rule(text), view(packet, recent=seen)))

    check = RECENT.format("rcheck --seconds 10800 --reap")
    assert ask(check) is False
    assert ask("! -p udp " + RECENT.format("rcheck").replace("--rcheck", "! --rcheck")) is True
    assert ask("-d 10.9.9.9/32 " + RECENT.format("set")) is False
    assert seen == set(), "a match that stands after one that fails is not reached"
    assert ask(RECENT.format("set") + " -m mark --mark 0x1") is False
    assert LISTED in seen, "a match that stands before the one that fails has done its work"
    assert ask(check) is True
    assert ask(RECENT.format("update --hitcount 1")) is True
    assert ask(RECENT.format("rcheck --hitcount 2")) == "recent sep: how often the address was seen is not modelled"
    assert ask(check, msgspec.structs.replace(SYN, src=ip("10.0.0.9"))) is False
    assert ask(RECENT.format("remove")) is True
    assert ask(RECENT.format("remove")) is False
    assert ask(check) is False


def test_recent_after_chance_leaves_the_list_uncertain() -> None:
    seen: set[tuple[str, int]] = set()
    maybe = rule("-m statistic --mode random --probability 0.50000000000 " + RECENT.format("set"))
    assert shown(rule_holds(maybe, view(recent=seen))) == Fraction(1, 2)
    assert shown(rule_holds(rule(RECENT.format("rcheck")), view(recent=seen))) == NOT_SURE
    assert rule_holds(rule(RECENT.format("rcheck").replace("sep", "other")), view(recent=seen)) is False


def test_recent_with_two_masks_is_undecided() -> None:
    seen: set[tuple[str, int]] = set()
    assert rule_holds(rule(RECENT.format("set").replace("255.255.255.255", "255.255.255.0")), view(recent=seen)) is True
    assert ("sep", ip("10.0.0.0").value) in seen
    assert shown(rule_holds(rule(RECENT.format("rcheck")), view(recent=seen))) == "recent sep: its rules have different masks"


def ipset(name: str, kind: str, *elements: str, family: int = 4, options: str = "") -> IpSet:
    entries = tuple(SetEntry(tuple(e.removesuffix(" nomatch").split(",")), e.endswith(" nomatch")) for e in elements)
    return IpSet(name, kind, family, entries, options)


TWO_NETS = ("10.0.0.0/8,10.0.0.0/8", "10.0.0.0/24,10.0.0.0/8 nomatch", "10.0.0.0/24,10.0.0.3/32")
RANDOM_PORT = {"sport_random": True}
MAC = {"src_mac": "02:00:00:00:00:02", "dst_mac": "02:00:00:00:00:01"}


@pytest.mark.parametrize(
    ("made", "dims", "packet", "answer"),
    [
        # types that the kernel of the kernel tests may lack
        (ipset("s", "hash:net,net", *TWO_NETS), "src,dst", {}, True),
        (ipset("s", "hash:net,net", *TWO_NETS), "src,dst", {"dst": ip("10.1.1.1")}, False),
        (ipset("s", "hash:net,net", *TWO_NETS), "src,dst", {"src": ip("10.7.0.1")}, True),
        (ipset("s", "hash:net,port,net", "10.0.0.0/24,tcp:80,10.0.0.0/30"), "src,dst,dst", {}, True),
        (ipset("s", "hash:net,port,net", "10.0.0.0/24,tcp:81,10.0.0.0/30"), "src,dst,dst", {}, False),
        (ipset("s", "hash:mac", "02:00:00:00:00:02"), "src", MAC, True),
        (ipset("s", "hash:mac", "02:00:00:00:00:02"), "dst", MAC, False),
        (ipset("s", "hash:mac", "02:00:00:00:00:02"), "src", {}, "set s: mac src of the packet is not known"),
        (ipset("s", "hash:ip,mac", "10.0.0.2,02:00:00:00:00:02"), "src,src", MAC, True),
        (ipset("s", "hash:ip,mark", "10.0.0.2,0x00000004", options="markmask 0x000000f4"), "src,src", {"mark": 0x105}, True),
        (ipset("s", "hash:ip,mark", "10.0.0.2,0x00000004"), "src,src", {"mark": 0x105}, False),
        # elements as a person writes them
        (ipset("s", "hash:ip", "10.0.0.0-10.0.0.2"), "src", {}, True),
        (ipset("s", "hash:ip", "10.0.0.0-10.0.0.1"), "src", {}, False),
        (ipset("s", "hash:ip", "10.0.0.0/30"), "src", {}, True),
        (ipset("s", "hash:net", "10.0.0.1-10.0.0.6"), "src", {"src": ip("10.0.0.6")}, True),
        (ipset("s", "hash:net", "10.0.0.1-10.0.0.6"), "src", {"src": ip("10.0.0.7")}, False),
        (ipset("s", "hash:ip,port", "10.0.0.3,79-81"), "dst,dst", {}, True),
        (ipset("s", "hash:ip,port", "10.0.0.3,udp:80"), "dst,dst", {}, False),
        (
            ipset("s", "hash:ip,port", "10.0.0.2,tcp:40000"),
            "src,src",
            {"sport_random": True},
            "set s: port src of the packet is not known",
        ),
        (ipset("s", "hash:ip", "10.0.0.0", options="family inet netmask 24"), "src", {}, True),
        (ipset("s", "hash:ip", "10.0.0.0", options="bitmask 255.0.0.255"), "src", {}, False),
        (ipset("s", "hash:ip", "10.0.0.2", options="bitmask 255.0.0.255"), "src", {"src": ip("10.9.9.2")}, True),
        # what does not fit: fewer dims than parts, the other family
        (ipset("s", "hash:ip,port", "10.0.0.3,tcp:80"), "dst", {}, False),
        (ipset("s", "hash:ip", "fd00::2", family=6), "src", {}, False),
        # what is not modelled
        (
            ipset("s", "hash:net,iface", "10.0.0.0/8,physdev:eth0"),
            "src,src",
            {},
            "set s: element with 'physdev:eth0' is not modelled",
        ),
        (ipset("s", "hash:new", "x"), "src", {}, "set s of type hash:new is not modelled"),
        (ipset("s", "hash:ip,port", "10.0.0.3,icmp:sneeze"), "dst,dst", {}, "set s: unknown ICMP type 'sneeze'"),
        (ipset("s", "hash:ip", "fd00::2"), "src", {}, "set s: fd00::2 is not of the set's family"),
        (ipset("s", "hash:ip,port", "10.0.0.3"), "dst,dst", {}, "set s: element '10.0.0.3' does not fit type hash:ip,port"),
        (ipset("s", "list:set", "gone"), "src", {}, "set s: set gone is not known"),
    ],
)
def test_sets(made: IpSet, dims: str, packet: dict[str, typing.Any], answer: object) -> None:
    netns = msgspec.structs.replace(NODE, sets={"s": made}, cache={})
    asked = contains("s", dims.split(","), view(msgspec.structs.replace(SYN, **packet), netns=netns))
    assert shown(asked) == answer
    through = rule_holds(
        Rule((matches.SetMatch("s", tuple(dims.split(",")), True),)), view(msgspec.structs.replace(SYN, **packet), netns=netns)
    )
    assert shown(through) == (answer if isinstance(answer, str) else not answer)


def test_list_of_sets_is_undecided_only_if_no_member_holds() -> None:
    known = {"a": ipset("a", "hash:new"), "b": ipset("b", "hash:ip", "10.0.0.2"), "l": ipset("l", "list:set", "a", "b")}
    netns = msgspec.structs.replace(NODE, sets=known, cache={})
    assert contains("l", ["src"], view(netns=netns)) is True
    assert shown(contains("l", ["dst"], view(netns=netns))) == "set l: set a of type hash:new is not modelled"


def test_set_that_is_not_known_is_undecided() -> None:
    assert shown(rule_holds(rule("-m set --match-set nope src"), view())) == "set nope is not known"
    assert shown(rule_holds(rule("-m set ! --match-set nope src"), view())) == "set nope is not known"


def test_counters_of_sets_are_not_modelled() -> None:
    netns = msgspec.structs.replace(NODE, sets={"s": ipset("s", "hash:ip", "10.0.0.2")}, cache={})
    counting = rule("-m set --match-set s src --packets-gt 5")
    assert shown(rule_holds(counting, view(netns=netns))) == "set s --packets-gt 5: counters of sets are not modelled"
    assert rule_holds(counting, view(msgspec.structs.replace(SYN, src=ip("10.0.0.9")), netns=netns)) is False


def test_a_changed_set_is_read_again() -> None:
    cache: dict[str, object] = {}
    before = msgspec.structs.replace(NODE, sets={"s": ipset("s", "hash:ip", "10.0.0.2")}, cache=cache)
    after = msgspec.structs.replace(NODE, sets={"s": ipset("s", "hash:ip", "10.0.0.9")}, cache=cache)
    assert [contains("s", ["src"], view(netns=n)) for n in (before, after, before)] == [True, False, True]


def test_one_match_alone() -> None:
    assert holds(matches.Source(4, SYN.src.value, 0xFFFFFFFF), view()) is True
