"""A packet's layers and what a step changed of them: bytes add up, tunnels are added and taken off, the inside stays."""

from __future__ import annotations

import pytest

from netlab.render.packets import compare, layers, wire_size
from netlab.trace.steps import Header

MACS = {"src_mac": "f2:50:c6:f2:ef:fd", "dst_mac": "52:04:a1:8d:72:13"}
POD = Header("TCP", "10.244.0.10", "10.244.1.11", 32768, 9000, "SYN", 63, 60, **MACS)  # type: ignore[arg-type]
VXLAN = Header("UDP", "192.168.50.11", "192.168.50.12", 49152, 8472, length=110, sport_random=True, vni=1, inner=POD)
BARE = Header("TCP", "10.0.0.1", "10.0.0.2", 1, 2, "SYN", 63, 60)
IPIP = Header("IPENCAP", "192.168.50.11", "192.168.50.12", length=80, inner=BARE)
PING6 = Header("ICMPV6", "fd00::1", "fd00::2", flags="echo request", length=104)
ERROR = Header("ICMP", "10.0.0.1", "10.0.0.2", flags="port unreachable", length=88, quoted=POD)
ACK = Header("TCP", "10.0.0.1", "10.0.0.2", 1, 2, "ACK", 64, 52)
BIG = Header("UDP", "10.0.0.1", "10.0.0.2", 1, 53, length=1500)


@pytest.mark.parametrize(
    ("header", "names", "size"),
    [
        (POD, "Ethernet IPv4 TCP", 14 + 60),
        (VXLAN, "IPv4 UDP VXLAN Ethernet IPv4 TCP", 110),
        (IPIP, "IPv4 IPv4 TCP", 80),
        (PING6, "IPv6 ICMPV6 data", 104),
        (ACK, "IPv4 TCP", 52),
        (BIG, "IPv4 UDP data", 1500),
    ],
    ids=["pod", "vxlan", "ipip", "ping6", "ack", "big"],
)
def test_layers_add_up(header: Header, names: str, size: int) -> None:
    made = layers(header)
    assert " ".join(layer.name for layer in made) == names
    assert wire_size(made) == size


def test_an_error_quotes_without_bytes_of_its_own() -> None:
    made = layers(ERROR)
    assert [layer.name for layer in made][-2:] == ["quoted IPv4", "quoted TCP"]
    assert sum(layer.size for layer in made if layer.name.startswith("quoted")) == 0


def test_a_tunnel_is_added_around_what_stays() -> None:
    rows = compare(layers(POD), layers(VXLAN))
    assert [(row.name, row.change) for row in rows] == [
        ("IPv4", "added"),
        ("UDP", "added"),
        ("VXLAN", "added"),
        ("Ethernet", "same"),
        ("IPv4", "same"),
        ("TCP", "same"),
    ]
    back = compare(layers(VXLAN), layers(POD))
    assert [row.change for row in back] == ["removed"] * 3 + ["same"] * 3


def test_a_changed_field_has_its_old_value() -> None:
    before = Header("TCP", "10.244.0.10", "10.96.0.20", 32768, 80, "SYN", length=60)
    after = Header("TCP", "10.244.0.10", "10.244.1.11", 32768, 9000, "SYN", length=60)
    changed = {(row.name, f.name): (f.old, f.new) for row in compare(layers(before), layers(after)) for f in row.fields if f.old}
    assert changed == {("IPv4", "destination"): ("10.96.0.20", "10.244.1.11"), ("TCP", "destination port"): ("80", "9000")}
