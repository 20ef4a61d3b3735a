"""ipset sets: named collections that rules match packets against.

Law: entries as `ipset save` prints them, parsed. Membership is decided by match/naive.py through `IpSet`.
"""

from __future__ import annotations

import msgspec


class SetEntry(msgspec.Struct, frozen=True):
    """One element: its parts in the order of the set's type, as text ("10.0.0.0/8", "tcp:80", "eth0"), and `nomatch`."""

    parts: tuple[str, ...]
    nomatch: bool = False


class IpSet(msgspec.Struct, frozen=True):
    """A set: `type` such as "hash:ip,port", `family` 4 or 6, its entries (members of list:set are set names)."""

    name: str
    type: str
    family: int = 4
    entries: tuple[SetEntry, ...] = ()
    options: str = ""
