"""View: everything that a match may ask about a packet at one hook; Answer: what it may say.

Law: a match is a function of its View. Three kinds of answer: it holds or not; it holds with a known probability
(Chance); it cannot be decided from what netlab knows (Undecided, with the reason).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import msgspec

from netlab.linux.conntrack import CtView
from netlab.linux.ipvs_connections import IpvsConnections
from netlab.linux.netns import Netns
from netlab.linux.nft import Element
from netlab.linux.packet import Packet
from netlab.linux.rules import Hook


class Chance(msgspec.Struct, frozen=True):
    """The match holds with this probability (`statistic`)."""

    probability: Fraction


def nice(probability: Fraction) -> Fraction:
    """The simple fraction that a rule's writer meant.

    kube-proxy writes 1/3 as 0.3333333333, the kernel keeps 31 bits of it (xt_statistic.c); within that rounding the simple
    fraction is the intended one. Anything else is returned as it is.
    """
    simple = probability.limit_denominator(10_000)
    return simple if abs(simple - probability) < Fraction(1, 10**9) else probability


class Undecided(msgspec.Struct, frozen=True):
    """netlab cannot know; `reason` says why in a few words."""

    reason: str


Answer = bool | Chance | Undecided


@dataclass(slots=True)
class View:
    """A packet at a hook of a namespace.

    Devices are names, "" where there is none at this hook; `physin`/`physout` are bridge ports of a bridged packet
    (br_netfilter). `recent` holds (list name, address) pairs that the walk has added; lists start empty. `local` says that
    a socket of this namespace sent the packet (for `owner`). `changed_sets` names sets that `-j SET` changed on the way;
    `nft_changes` has per nft set (family, table, name) what rules added to it (an Element) or took away (None), by key.
    """

    packet: Packet
    hook: Hook
    netns: Netns
    indev: str = ""
    outdev: str = ""
    physin: str = ""
    physout: str = ""
    ct: CtView | None = None
    local: bool = False
    recent: set[tuple[str, int]] = field(default_factory=set)
    changed_sets: set[str] = field(default_factory=set)
    nft_changes: dict[tuple[str, str, str], dict[tuple[int, ...], Element | None]] = field(default_factory=dict)
    ipvs: bool = False  # skb->ipvs_property
    virtual: IpvsConnections | None = None  # IPVS's connections here
