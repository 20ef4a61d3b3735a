"""Connection tracking as one namespace sees it: entries, states, and the NAT bound to a connection.

Law: states and statuses are those of nf_conntrack_core.c / nf_nat_core.c. An entry holds the tuple of each direction; NAT
is nothing but a reply tuple that is not the inverse of the original one.
"""

from __future__ import annotations

import enum

import msgspec

from netlab.linux.packet import Flow


class CtState(enum.Enum):
    """What `-m conntrack --ctstate` calls a packet's relation to its connection."""

    NEW = "NEW"
    ESTABLISHED = "ESTABLISHED"
    RELATED = "RELATED"
    INVALID = "INVALID"
    UNTRACKED = "UNTRACKED"


class Connection(msgspec.Struct):
    """A tracked connection (struct nf_conn). Mutable: it belongs to one walk of one branch.

    `original` and `reply` are the tuples of the two directions; `src_done`/`dst_done` say that the source or destination
    manipulation was decided (IPS_SRC_NAT_DONE, IPS_DST_NAT_DONE); `confirmed` that it entered the table.
    """

    original: Flow
    reply: Flow
    zone: int = 0
    zone_direction: str = ""  # the direction whose tuple is in the zone: "orig", "reply", "" both (nf_ct_zone_id)
    mark: int = 0
    confirmed: bool = False
    seen_reply: bool = False
    assured: bool = False
    src_done: bool = False
    dst_done: bool = False
    snat: bool = False  # IPS_SRC_NAT
    dnat: bool = False  # IPS_DST_NAT
    masq_dev: str = ""  # the device that MASQUERADE saw it leave through (nf_conn_nat.masq_index)
    picked_up: bool = False  # TCP: begun without a SYN (nf_conntrack_tcp_loose)
    cookie: bool = False  # SCTP: the COOKIE-ECHO has passed
    random_port: bool = False  # --random or --random-fully chose the source port: its value is one of many


class CtView(msgspec.Struct):
    """What a rule sees of connection tracking for one packet: state, the connection (None: untracked, invalid), direction."""

    state: CtState
    connection: Connection | None = None
    is_reply: bool = False
