"""netlink messages as bytes: the header, nested attributes, numbers in network order. Pure; watching.py fetches the bytes.

Law: what cannot be a message is a BugError with its bytes, never skipped: the kernel does not write such. Sources:
<linux/netlink.h>, <linux/netfilter/nfnetlink.h>.
"""

from __future__ import annotations

import base64
import struct

from netlab.errors import BugError

HEADER = 20  # bytes: struct nlmsghdr, struct nfgenmsg
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

Attributes = dict[int, bytes]


def message(text: str) -> tuple[int, int, Attributes]:
    """One nfnetlink message in base64: its type, its address family (nfgenmsg.nfgen_family), its attributes."""
    data = base64.b64decode(text)
    if len(data) < HEADER:
        raise BugError(f"netlink message of {len(data)} bytes: {data.hex()}")
    length, kind, family = struct.unpack_from("=IH10xB", data)
    return kind, family, attributes(data[HEADER:length])


def attributes(data: bytes) -> Attributes:
    """The attributes in a message or in a nested attribute, by type; of a repeated one the last.

    >>> attributes(bytes.fromhex("0600010061620000" "05000280ff000000"))
    {1: b'ab', 2: b'\\xff'}
    """
    found: Attributes = {}
    place = 0
    while place + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, place)
        if length < 4 or place + length > len(data):
            raise BugError(f"netlink attribute of {length} bytes at {place}: {data.hex()}")
        found[kind & _TYPE_MASK] = data[place + 4 : place + length]
        place += (length + 3) & ~3
    return found


def number(data: bytes | None) -> int:
    """A number in network order; 0 where there is none."""
    return int.from_bytes(data or b"", "big")


def text(data: bytes | None) -> str:
    """A string, without its final zero byte."""
    return (data or b"").rstrip(b"\0").decode()
