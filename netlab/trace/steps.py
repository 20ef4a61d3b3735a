"""A trace: Trace -> Branch -> Hop -> Step, all plain values that JSON can carry (`netlab schema trace` is drawn from them).

Law: a Step is one of a closed tagged union; its `ref` points at the input that caused it. Addresses are text here, as users
read them. A branch is one outcome of all random choices, with its exact probability; the walk of the reply is part of it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import msgspec

from netlab.refs import Ref


class Verdict(enum.Enum):
    """What became of the packet, and with it the exit code of the command."""

    DELIVERED = "delivered"  # the request reached a socket and the reply came back
    DROPPED = "dropped"  # it, or the reply, died on the way without a word
    REJECTED = "rejected"  # somebody answered no: ICMP error or TCP reset
    PARTIAL = "partial"  # branches differ
    UNKNOWN = "unknown"  # it depends on something that is not modelled


EXIT_CODES = {Verdict.DELIVERED: 0, Verdict.DROPPED: 1, Verdict.REJECTED: 1, Verdict.PARTIAL: 1, Verdict.UNKNOWN: 3}


class Step(msgspec.Struct, frozen=True, tag_field="step", rename="camel", omit_defaults=True, kw_only=True):
    """The base of all steps. `seen` is of `netlab lab trace` alone, of what Linux shows of a packet (rules, devices): "both" did
    this, "netlab" says it and Linux did not, or "linux" did what netlab does not say."""

    ref: Ref | None = None
    seen: Literal["", "both", "netlab", "linux"] = ""


class Header(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A packet as it is on a wire. `flags` is TCP flags ("SYN,ACK") or the ICMP type in words; lengths in bytes; `df`:
    Don't Fragment is set."""

    protocol: str
    source: str
    destination: str
    sport: int = 0
    dport: int = 0
    flags: str = ""
    ttl: int = 64
    length: int = 0
    mark: int = 0
    sport_random: bool = False
    src_mac: str = ""
    dst_mac: str = ""
    vni: int | None = None
    inner: Header | None = None
    quoted: Header | None = None
    df: bool = True

    def __str__(self) -> str:
        """`10.0.0.1:32768 > 10.96.0.10:53`; ports only where the protocol has them; a random source port is `*`."""
        if not self.sport and not self.dport:
            return f"{self.source} > {self.destination}"
        sport = "*" if self.sport_random else str(self.sport)
        source = f"[{self.source}]" if ":" in self.source else self.source
        destination = f"[{self.destination}]" if ":" in self.destination else self.destination
        return f"{source}:{sport} > {destination}:{self.dport}"


class Sent(Step, frozen=True, tag="sent"):
    """A socket (or a forwarding host, for ICMP errors) made this packet. `by`: "pod default/web-0", "kernel of node-1"."""

    packet: Header
    by: str


class Received(Step, frozen=True, tag="received"):
    """The packet came in through a device."""

    device: str
    packet: Header


class Routed(Step, frozen=True, tag="routed"):
    """A route lookup: `type` as in ip-route(8), the `route` as `ip route` prints it, its table, the policy rule's priority.

    `source` is the address chosen for a locally made packet that had none yet.
    """

    destination: str
    type: str
    device: str = ""
    via: str = ""
    source: str = ""
    table: str = "main"
    route: str = ""
    rule: int | None = None
    note: str = ""


class NeighbourStep(Step, frozen=True, tag="neighbour"):
    """Who has this address on this link. `how`: "permanent" entry, "arp"/"ndp" answered by `owner`, "proxy_arp" where `owner`
    answers for an address that it would route elsewhere, "fdb"."""

    ip: str
    mac: str
    device: str
    how: str
    owner: str = ""


class Bridged(Step, frozen=True, tag="bridged"):
    """A bridge moved the frame from one port to another (or up to the host: out is the bridge itself, or down from it)."""

    bridge: str
    port_in: str
    port_out: str
    mac: str = ""
    note: str = ""
    packet: Header | None = None  # as the bridge hands it on


class Conntracked(Step, frozen=True, tag="conntrack"):
    """Connection tracking looked at the packet: its state, and the connection's two tuples where there is one."""

    state: str
    direction: str = ""
    original: str = ""
    reply: str = ""


def is_nft(table: str) -> bool:
    """Whether a step's table is one of nft, whose words are small letters; iptables has capitals."""
    return table.startswith("nft ")


def with_elements(rule: str, elements: Sequence[str]) -> str:
    """A rule of nft in which each named set is followed by the element that decided.

    >>> with_elements("ip daddr @cluster-ips reject", ["@cluster-ips { 10.96.0.20 }"])
    'ip daddr @cluster-ips { 10.96.0.20 } reject'
    """
    words = rule.split(" ")
    for element in elements:
        name = element.split(" ", 1)[0]
        if name.startswith("@") and name in words:
            words[words.index(name)] = element
    return " ".join(words)


class HookStep(Step, frozen=True, tag="hook"):
    """A base chain was walked to its end. `verdict` accept or drop; `by` "policy", "rule" or "return to policy"; rules tried."""

    hook: str
    table: str
    chain: str
    verdict: str
    by: str = "policy"
    tried: int = 0
    origin: str = "expected"  # or "observed"


class RuleStep(Step, frozen=True, tag="rule"):
    """A rule matched. `number` counts from 1 in its chain; `rule` is `-A CHAIN ...` in iptables-save's words, or what nft prints
    for it: then `table` is `nft FAMILY NAME`.

    `effect` says in a few words what it did ("jump", "mark 0x4000", "dnat to 10.244.0.3:9376", "return", "accept" ...).
    `chance` is the probability of a random match, "" where it was certain. `elements`: those of nft's sets and maps by which the
    rule holds, `@service-ips { 10.96.0.20 . tcp . 80 : goto service-X }`; of a set that stands in the rule without the name.
    """

    hook: str
    table: str
    chain: str
    number: int
    rule: str
    effect: str = ""
    comment: str = ""
    chance: str = ""
    tried: int = 0  # rules of this chain looked at since the last match
    elements: tuple[str, ...] = ()

    @property
    def is_nft(self) -> bool:
        return is_nft(self.table)

    @property
    def matched(self) -> str:
        """The rule with the elements that decided, each behind the name of its set."""
        return with_elements(self.rule, self.elements)


class Natted(Step, frozen=True, tag="nat"):
    """Addresses or ports were rewritten. `kind` dnat or snat (masquerade included); `reverse` where conntrack undoes it."""

    kind: str
    before: str
    after: str
    reverse: bool = False
    note: str = ""


class IpvsStep(Step, frozen=True, tag="ipvs"):
    """IPVS looked at a packet for a virtual service.

    `action`: "scheduled" a new connection, "connection" one that it knows, "no server" that takes it. `service` and `rule` (the
    real server's line) are in ipvsadm's words. `method`: masquerade, tunnel or direct route. `why`: how the scheduler chose.
    `chance` is the probability of this server, "" where it was certain.
    """

    hook: str
    action: str
    service: str
    server: str = ""
    rule: str = ""
    method: str = ""
    scheduler: str = ""
    why: str = ""
    chance: str = ""
    origin: str = "expected"


class Encapsulated(Step, frozen=True, tag="encap"):
    """A tunnel device wrapped the packet."""

    device: str
    vni: int | None
    outer: Header


class Decapsulated(Step, frozen=True, tag="decap"):
    """A tunnel end unwrapped the packet."""

    device: str
    vni: int | None
    inner: Header


class MtuStep(Step, frozen=True, tag="mtu"):
    """The packet was measured against a device's MTU (bytes) and something followed from it."""

    device: str
    mtu: int
    length: int
    note: str = ""


class Transmitted(Step, frozen=True, tag="transmitted"):
    """The frame left through a device on a wire. `to` is "namespace/device" at the other end."""

    device: str
    to: str
    packet: Header


class PolicyStep(Step, frozen=True, tag="policy"):
    """What network policy says for one direction ("ingress", "egress") at one end, even if nothing.

    `selected`: the policies that select the pod. `says` "allowed", "denied" or "undefined"; `policy` and `rule` (from 1): what
    decides so, none where no rule allows it. `enforced`: the cluster has an engine that makes it so.
    """

    text: str
    direction: str = ""
    says: str = ""
    enforced: bool = False
    selected: tuple[str, ...] = ()
    policy: str = ""
    rule: int | None = None


class NoteStep(Step, frozen=True, tag="note"):
    """A fact worth knowing that changed nothing: a fallback, an assumption at this very place."""

    text: str


class Delivered(Step, frozen=True, tag="delivered"):
    """The packet reached a socket; `assumed` where nothing declares the socket. For a reply: the sender's own socket."""

    socket: str
    owner: str
    packet: Header
    assumed: bool = False


class Proxied(Step, frozen=True, tag="proxied"):
    """kube-proxy's userspace mode took the request from its socket and opens a second connection, to the `number`-th `of` so many
    endpoints of a service port; `attempt` counts from 1. What follows are that connection's packets. `back`: it copies the answer
    from the second connection into the first, whose packets follow."""

    service: str
    backend: str
    attempt: int
    number: int
    of: int
    protocol: str = "TCP"
    back: bool = False


class Dropped(Step, frozen=True, tag="dropped"):
    """The packet died here."""

    reason: str


class Rejected(Step, frozen=True, tag="rejected"):
    """An error answer was made here: `answer` "TCP RST" or "ICMP port unreachable"."""

    reason: str
    answer: str


class UnknownStep(Step, frozen=True, tag="unknown"):
    """The packet's fate depends on something that netlab does not model: `what` names it."""

    what: str


AnyStep = (
    Sent
    | Received
    | Routed
    | NeighbourStep
    | Bridged
    | Conntracked
    | HookStep
    | RuleStep
    | Natted
    | IpvsStep
    | Encapsulated
    | Decapsulated
    | MtuStep
    | Transmitted
    | PolicyStep
    | NoteStep
    | Delivered
    | Proxied
    | Dropped
    | Rejected
    | UnknownStep
)


class Hop(msgspec.Struct, frozen=True, rename="camel"):
    """What happened in one network namespace: `where` its name, `kind` node, pod or external."""

    where: str
    kind: str
    steps: tuple[AnyStep, ...]


class Reply(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The way back. `kind`: "reply" of the endpoint, or "error" (RST, ICMP) of whoever refused; `arrived` at the sender.

    `hops` may end elsewhere: then `reason` says where and why it died. `handshake`: the SYN-ACK did arrive, but not the ACK that
    the sender answers with, nor anything after it; `hops` go on with that ACK, and `arrived` is false.
    """

    kind: str
    arrived: bool
    hops: tuple[Hop, ...]
    reason: str | None = None
    handshake: bool = False


class Branch(msgspec.Struct, frozen=True, rename="camel"):
    """One outcome.

    `probability` is exact (JSON: a number); `choices` says in words which random choices led here; `endpoint` "ip:port" of
    the socket that got the request (also where the reply died), `endpoint_name` whose it is; `source_seen` the source
    address in the packet that it received.
    """

    probability: Fraction
    verdict: Verdict
    endpoint: str | None
    endpoint_name: str | None
    source_seen: str | None
    reason: str | None
    hops: tuple[Hop, ...]
    reply: Reply | None = None
    choices: tuple[str, ...] = ()


class Party(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Source or destination: what the user typed, what it is, and the address (and port) that the packet carries."""

    text: str
    name: str
    kind: str
    ip: str = ""
    port: int | None = None
    where: str = ""  # namespace of the sender


class Trace(msgspec.Struct, frozen=True, rename="camel"):
    """The answer. Branches by falling probability, then endpoint."""

    source: Party
    destination: Party
    protocol: str
    verdict: Verdict
    branches: tuple[Branch, ...]
    assumptions: tuple[str, ...] = ()
    not_modelled: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]
