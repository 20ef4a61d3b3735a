"""The kernel's trace as bytes: passes, overlapping packets, ids that change. The kernel itself: tests/kernel/test_lab.py."""

import base64
import struct

import pytest

from netlab.errors import BugError
from netlab.lab.crossings import drawn_ends
from netlab.lab.frames import encode
from netlab.lab.kernel_trace import Pass, passes, rule_numbers
from netlab.linux.addr import ip
from netlab.linux.packet import ICMPV6, UDP, Packet
from netlab.trace.skb import header
from netlab.trace.steps import Hop, Sent

ASKED = Packet(ip("10.0.0.1"), ip("10.0.0.2"), UDP, sport=33000, dport=53, length=60)
ERROR = Packet(ip("10.0.0.2"), ip("10.0.0.1"), 1, icmp_type=3, icmp_code=3, length=28)
SOLICITATION = Packet(ip("fe80::1"), ip("fe80::2"), ICMPV6, icmp_type=135, length=64)


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def message(family: int, *attributes: bytes) -> str:
    body = struct.pack("=BxH", family, 0) + b"".join(attributes)
    return base64.b64encode(struct.pack("=IHHII", 16 + len(body), 10 << 8 | 17, 0, 0, 0) + body).decode()


def event(identity: int, table: str, chain: str, handle: int | None, packet: Packet | None = None, family: int = 2) -> str:
    given = [attribute(1, table.encode() + b"\0"), attribute(2, chain.encode() + b"\0"), attribute(4, struct.pack("!I", 3))]
    given.append(attribute(6, struct.pack("!I", identity)))
    if handle is not None:
        given.append(attribute(3, struct.pack("!Q", handle)))
    if packet is not None:
        given.append(attribute(8, encode(packet)))
    return message(family, *given)


def begin(identity: int, chain: str, packet: Packet) -> str:
    return event(identity, "netlab_trace", chain, 3, packet, family=1)


def rule(table: str, chain: str, handle: int) -> str:
    names = (attribute(1, table.encode() + b"\0"), attribute(2, chain.encode() + b"\0"))
    return message(2, *names, attribute(3, struct.pack("!Q", handle)))


NUMBERS = rule_numbers(
    [rule("filter", "INPUT", 9), rule("filter", "INPUT", 4), rule("kube-proxy", "services", 7), rule("raw", "OUTPUT", 5)]
)


def ways(*events: str) -> list[tuple[str, tuple[tuple[str, str, int], ...]]]:
    return [(one.begins, one.rules) for one in passes(events, NUMBERS)]


def test_rules_are_numbered_by_their_place_and_tables_named_as_steps_name_them() -> None:
    assert NUMBERS["ip filter", "INPUT", 9] == ("filter", "INPUT", 1)
    assert NUMBERS["ip filter", "INPUT", 4] == ("filter", "INPUT", 2)
    assert NUMBERS["ip kube-proxy", "services", 7] == ("nft ip kube-proxy", "services", 1)


def test_an_answer_that_is_traced_before_its_rule_is_a_pass_of_its_own() -> None:
    assert ways(
        begin(1, "prerouting", ASKED),
        begin(2, "output", ERROR),
        event(2, "raw", "OUTPUT", 5),
        event(1, "filter", "INPUT", 4),
    ) == [("prerouting", (("filter", "INPUT", 2),)), ("output", (("raw", "OUTPUT", 1),))]


def test_an_id_that_changes_goes_on_with_the_packet_that_came_in() -> None:
    assert ways(
        begin(1, "prerouting", ASKED),
        event(8, "filter", "INPUT", 9),
        begin(1, "prerouting", ASKED),
        event(8, "filter", "INPUT", 4),
    ) == [("prerouting", (("filter", "INPUT", 1),)), ("prerouting", (("filter", "INPUT", 2),))]


def test_neighbour_discovery_and_the_ends_of_chains_are_left_out() -> None:
    assert passes([begin(1, "prerouting", SOLICITATION), event(1, "filter", "INPUT", 9)], NUMBERS) == []
    assert passes([begin(1, "prerouting", ASKED), event(1, "filter", "INPUT", None)], NUMBERS) == [
        Pass("prerouting", ASKED)
    ]


def test_a_rule_that_is_not_listed_is_our_bug() -> None:
    with pytest.raises(BugError, match="ip filter INPUT handle 99"):
        passes([begin(1, "prerouting", ASKED), event(1, "filter", "INPUT", 99)], NUMBERS)


def test_a_port_is_drawn_from_the_socket_on_not_from_the_first_wire() -> None:
    """kube-proxy's second connection to an endpoint that no neighbour answers for is in conntrack, and on no wire."""
    packet = Packet(ip("10.244.0.1"), ip("10.244.0.99"), UDP, sport=40001, dport=53, sport_random=True)
    assert drawn_ends([Hop("node-1", "node", (Sent(header(packet), "kube-proxy"),))]) == {("UDP", "10.244.0.1", 40001)}
