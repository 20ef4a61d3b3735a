"""ipset save text: it reads and writes back line for line, and bad text is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from netlab.errors import InputError
from netlab.linux.sets import IpSet, SetEntry
from netlab.linux.text.ipset import parse, write
from netlab.refs import Ref

SAVED = Path(__file__).parent / "data" / "iptables" / "sets.ipset"


def test_a_dump_reads_and_writes_back_line_for_line() -> None:
    text = SAVED.read_text()
    sets = parse(text, SAVED.name)
    assert write(sets) == text
    assert parse(write(sets.values())) == sets
    assert [(each.name, each.type, each.family, len(each.entries)) for each in sets.values()] == [
        ("lan", "hash:net", 4, 2),
        ("leases", "bitmap:ip,mac", 4, 2),
        ("v6", "hash:ip,port,net", 6, 2),
        ("wires", "hash:net,iface", 4, 2),
        ("ports", "bitmap:port", 4, 1),
        ("all", "list:set", 4, 2),
    ]
    assert sets["lan"].entries[1] == SetEntry(
        ("10.0.0.0/8",), True, 'timeout 99 packets 5 bytes 6 comment "hello world" skbmark 0x1/0xff'
    )
    assert sets["v6"].entries[0].parts == ("fd00::1", "udp:53", "::/1")
    assert sets["ports"].options == "range 0-100"


def test_what_hand_written_files_have() -> None:
    sets = parse("# lan\n\n-N lan hash:ip -exist\n  add lan 10.0.0.1-10.0.0.9 -exist\r\n-A lan 10.0.1.0/24\n")
    assert sets == {"lan": IpSet("lan", "hash:ip", 4, (SetEntry(("10.0.0.1-10.0.0.9",)), SetEntry(("10.0.1.0/24",))))}


ONE = "create s hash:ip,port family inet\n"

REFUSED = [
    (ONE + ONE, 2, "set s is created twice"),
    (ONE + "add t 10.0.0.1,tcp:80\n", 2, "set t is not created"),
    (ONE + "add s\n", 2, "the line is incomplete"),
    ("create s\n", 1, "the line is incomplete"),
    ("create s hash:pi\n", 1, 'did you mean "hash:ip"'),
    ("create s hash:ip hashsize\n", 1, "hashsize needs a value"),
    ("create s hash:ip family inet5\n", 1, "a family is inet or inet6"),
    ("create s hash:ip timout 5\n", 1, 'did you mean "timeout"'),
    (f"create {'x' * 32} hash:ip\n", 1, "longer than 31"),
    (ONE + "add s 10.0.0.1\n", 2, "expected ip,port"),
    (ONE + "add s 10.0.0.1,tcp:80,eth0\n", 2, "expected ip,port"),
    (ONE + "add s 10.0.0,tcp:80\n", 2, "'10.0.0' is not an address"),
    (ONE + "add s fd00::1,tcp:80\n", 2, "fd00::1 is an IPv6 address, the set holds IPv4"),
    (ONE + "add s 10.0.0.0/33,tcp:80\n", 2, "no valid prefix length"),
    (ONE + "add s 10.0.0.1,tcp:65536\n", 2, "is not a port"),
    (ONE + "add s 10.0.0.1,tcp:\n", 2, "is not a port"),
    (ONE + "add s 10.0.0.1,tcp:80 timeout\n", 2, "timeout needs a value"),
    (ONE + "add s 10.0.0.1,tcp:80 nomach\n", 2, 'did you mean "nomatch"'),
    (ONE + 'add s 10.0.0.1,tcp:80 comment "x\n', 2, "unterminated quote"),
    ("create s bitmap:ip,mac range 10.0.0.0/24\nadd s 10.0.0.1,00:11\n", 2, "is not a MAC address"),
    ("create s hash:ip,mark\nadd s 10.0.0.1,mark\n", 2, "is not a mark"),
    ("create s list:set\nadd s t\n", 2, "set t, a member of a list, is not created"),
    ("*nat\nCOMMIT\n", 1, "not a line of ipset save"),
]


@pytest.mark.parametrize(("text", "line", "says"), REFUSED)
def test_bad_text_is_refused_with_file_and_line(text: str, line: int, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        parse(text, "node.ipset")
    assert caught.value.ref == Ref("node.ipset", line)
