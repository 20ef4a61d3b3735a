"""What nft's rules and IPVS's services are made of once they are chains of the rule IR, beside iptables' own matches and targets.

    an nft rule `CONDITIONS vmap { A : V, ... }`  -->  one Rule: CONDITIONS, Inline(chain)      chain: a Rule for each element
    an IPVS service                               -->  one Rule: its address and port, Jump     chain: a Rule for each real server

Law: these mean what trace/nftables.py and trace/ipvs.py do, to which walk.py's answer is held equal. An inline chain is a part of
one rule: its end, or Leave, is the end of that rule. What has no form here stays nft's statement, which walk.py carries out.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import cast

import msgspec

from netlab.linux import matches as m
from netlab.linux import nft as n
from netlab.linux import targets as t
from netlab.linux.ipvs import RealServer, VirtualService
from netlab.linux.rules import Chain, Rule, Table
from netlab.match.view import Undecided


class LoweredChain(Chain, frozen=True, gc=False):
    """A chain of nft, or an inline chain: `then` is where its end goes on (chain, position), `depth` how many inline chains lie
    around each other here, `origin` the rule (chain, number from 1) that it is a part of. `nat`: a base chain of type nat."""

    then: tuple[str, int] | None = None
    depth: int = 0
    origin: tuple[str, int] | None = None
    nat: bool = False


class LoweredTable(Table, frozen=True):
    """A table of nft as chains of the rule IR; `nft` is None for IPVS's."""

    nft: n.NftTable | None = None


# -- matches -----------------------------------------------------------------------------------------------------------


class Known(msgspec.Struct, frozen=True, gc=False):
    """The same answer for every packet."""

    answer: bool | Undecided


class Odds(msgspec.Struct, frozen=True, gc=False):
    """Holds with a probability."""

    probability: Fraction


class NftMatch:
    """A comparison or look-up of nft's as it is. Two of them are never equal: what is in them is large."""

    __slots__ = ("compare", "table")

    def __init__(self, compare: n.Compare, table: n.NftTable) -> None:
        self.compare, self.table = compare, table


class Connected(msgspec.Struct, frozen=True, gc=False):
    """The packet has a connection, of which nft tells more than the state (nft_ct.c nft_ct_get_eval)."""


class Schedulable(msgspec.Struct, frozen=True, gc=False):
    """IPVS looks for a service for this packet (ip_vs_core.c ip_vs_in_hook, ip_vs_proto_tcp.c tcp_conn_schedule and its like)."""

    sloppy_tcp: bool = False
    sloppy_sctp: bool = False


class FromPort(msgspec.Struct, frozen=True, gc=False):
    """The packet's source port, whether NAT drew it at random or not."""

    port: int


# -- targets -----------------------------------------------------------------------------------------------------------


class Inline(msgspec.Struct, frozen=True, gc=False):
    """The rule goes on in a chain of its own, which is no jump."""

    chain: str


class Leave(msgspec.Struct, frozen=True, gc=False):
    """The end of the nft rule that this is a part of."""


class NftStatement:
    """A statement that walk.py carries out as nft does. `plain`: it always runs, the rule goes on, and all that it does is to
    change a set."""

    __slots__ = ("plain", "statement", "table")

    def __init__(self, statement: n.Statement, table: n.NftTable, plain: bool = False) -> None:
        self.statement, self.table, self.plain = statement, table, plain

    def __str__(self) -> str:
        return f"nft {type(self.statement).__name__.lower()}"


class ToServer(msgspec.Struct, frozen=True):
    """IPVS sends the packet to a real server of a service ("10.96.0.10:53/udp")."""

    service: str
    server: RealServer

    def __str__(self) -> str:
        port = self.server.port
        where = self.server.ip.port(port) if port else str(self.server.ip)
        return f"-r {where} {self.server.method.value}"


class Scheduled(msgspec.Struct, frozen=True):
    """IPVS's scheduler decides by the packet's addresses; `own_port`: the packet is for the service's port."""

    service: VirtualService
    own_port: bool

    def __str__(self) -> str:
        return f"-s {self.service.scheduler}"


LoweredMatch = m.Match | Known | Odds | NftMatch | Connected | Schedulable | FromPort
LoweredTarget = t.Target | Inline | Leave | NftStatement | ToServer | Scheduled | None


def rule(matches: Sequence[LoweredMatch], target: LoweredTarget) -> Rule:
    """A Rule of the matching core's own; only match/ ever sees it, so that the rule IR need not know of these."""
    return Rule(cast("tuple[m.Match, ...]", tuple(matches)), cast("t.Target | None", target))


def inline_chain(made: Rule) -> str | None:
    """The inline chain that a rule goes on in."""
    target: object = made.target
    return target.chain if isinstance(target, Inline) else None


def verdict_target(verdict: n.Verdict, of_map: bool) -> t.Target | Leave | None:
    """A verdict as a target; `continue` of a map's element is not the end of the map alone."""
    match verdict.kind:
        case "accept":
            return t.Accept()
        case "drop":
            return t.Drop()
        case "return":
            return t.Return()
        case "jump" | "goto":
            return t.Jump(verdict.chain, verdict.kind == "goto")
        case _:
            return Leave() if of_map else None


def leads_to(made: Rule) -> str | None:
    """The chain that a rule goes on in, if it does."""
    target: object = made.target
    return target.chain if isinstance(target, t.Jump | Inline) else None
