"""ipset sets: named collections that rules match packets against.

Law: entries as `ipset save` prints them, parsed. Membership is decided by match/ipset.py; text/ipset.py reads and writes.
"""

from __future__ import annotations

import msgspec


class SetEntry(msgspec.Struct, frozen=True):
    """One element: its parts in the order of the set's type, as text ("10.0.0.0/8", "tcp:80", "eth0"), and `nomatch`.

    `options` is the text of what decides nothing here: `timeout 299`, `packets 5 bytes 6`, `comment "..."`, `skbmark ...`.
    """

    parts: tuple[str, ...]
    nomatch: bool = False
    options: str = ""

    def __str__(self) -> str:
        """The element as ipset prints it after `add SET`: nomatch stands behind a timeout and before the rest."""
        text = ",".join(self.parts)
        rest = self.options.split(" ") if self.options else []
        if self.nomatch:
            rest.insert(2 if rest[:1] == ["timeout"] else 0, "nomatch")
        return " ".join([text, *rest])


class IpSet(msgspec.Struct, frozen=True):
    """A set: `type` such as "hash:ip,port", `family` 4 or 6, its entries (members of list:set are set names).

    `options` is the text that follows the type and the family: `hashsize 1024 maxelem 65536`, `range 0-65535`.
    """

    name: str
    type: str
    family: int = 4
    entries: tuple[SetEntry, ...] = ()
    options: str = ""
