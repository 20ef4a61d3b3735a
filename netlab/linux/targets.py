"""The targets of the rule IR: what a rule does to a packet.

Law: one class per iptables target, fields as the kernel stores them, `str()` exactly what iptables-save prints, from `-j`
on. What a target does is decided in trace/. Sources: iptables-extensions(8), net/netfilter/xt_*.c.
"""

from __future__ import annotations

import msgspec

from netlab.linux.addr import Ip


class Accept(msgspec.Struct, frozen=True, gc=False):
    """`-j ACCEPT`."""


class Drop(msgspec.Struct, frozen=True, gc=False):
    """`-j DROP`."""


class Return(msgspec.Struct, frozen=True, gc=False):
    """`-j RETURN`."""


class Jump(msgspec.Struct, frozen=True, gc=False):
    """`-j CHAIN`, or `-g CHAIN` where `goto`."""

    chain: str
    goto: bool = False


class Reject(msgspec.Struct, frozen=True, gc=False):
    """`-j REJECT --reject-with TYPE`; `kind` in the tool's words ("icmp-port-unreachable", "tcp-reset")."""

    kind: str


class NatRange(msgspec.Struct, frozen=True, gc=False):
    """What a NAT target may choose from: addresses (None: keep), ports (None: keep), and how.

    `base_port` is the base of a shifted port map (`--to-destination A:1000-2000/3000`).
    """

    low: Ip | None = None
    high: Ip | None = None
    port_low: int | None = None
    port_high: int | None = None
    base_port: int | None = None
    random: bool = False
    random_fully: bool = False
    persistent: bool = False


class Dnat(msgspec.Struct, frozen=True, gc=False):
    """`-j DNAT --to-destination ...`."""

    to: NatRange


class Snat(msgspec.Struct, frozen=True, gc=False):
    """`-j SNAT --to-source ...`."""

    to: NatRange


class Masquerade(msgspec.Struct, frozen=True, gc=False):
    """`-j MASQUERADE [--to-ports A-B] [--random] [--random-fully]`."""

    to: NatRange = NatRange()


class Redirect(msgspec.Struct, frozen=True, gc=False):
    """`-j REDIRECT [--to-ports A-B] [--random]`."""

    to: NatRange = NatRange()


class Netmap(msgspec.Struct, frozen=True, gc=False):
    """`-j NETMAP --to PREFIX`: `value` and `mask` are integers."""

    family: int
    value: int
    mask: int


class SetMark(msgspec.Struct, frozen=True, gc=False):
    """`-j MARK --set-xmark VALUE/MASK`: mark = (mark & ~mask) ^ value. All MARK spellings reduce to it."""

    value: int
    mask: int = 0xFFFFFFFF


class SetConnmark(msgspec.Struct, frozen=True, gc=False):
    """`-j CONNMARK`. `action` is "set" (ctmark = (ctmark & ~ctmask) ^ value), "save" or "restore" (with nfmask, ctmask)."""

    action: str
    value: int = 0
    ctmask: int = 0xFFFFFFFF
    nfmask: int = 0xFFFFFFFF


class Ct(msgspec.Struct, frozen=True, gc=False):
    """`-j CT`, and `-j NOTRACK` where `bare`; `extra` keeps options that do not decide a packet's path (helper, timeout ...)."""

    notrack: bool = False
    zone: int | None = None
    zone_direction: str = ""  # "", "orig" or "reply"
    extra: str = ""
    bare: bool = False


class Tproxy(msgspec.Struct, frozen=True, gc=False):
    """`-j TPROXY --on-port P --on-ip A --tproxy-mark V/M`."""

    port: int
    ip: Ip | None = None
    mark: int = 0
    mask: int = 0


class Log(msgspec.Struct, frozen=True, gc=False):
    """`-j LOG` or `-j NFLOG`; options as text. The packet goes on."""

    kind: str
    text: str = ""


class TraceTarget(msgspec.Struct, frozen=True, gc=False):
    """`-j TRACE`. The packet goes on."""


class SetTarget(msgspec.Struct, frozen=True, gc=False):
    """`-j SET --add-set|--del-set|--map-set ...` as text. The packet goes on."""

    text: str


class Tcpmss(msgspec.Struct, frozen=True, gc=False):
    """`-j TCPMSS --set-mss N` or `--clamp-mss-to-pmtu` (mss None). The packet goes on."""

    mss: int | None = None


class Checksum(msgspec.Struct, frozen=True, gc=False):
    """`-j CHECKSUM --checksum-fill`. The packet goes on."""


class UnknownTarget(msgspec.Struct, frozen=True, gc=False):
    """A target that netlab does not model: its name and the text of its options, kept whole."""

    name: str
    text: str = ""
    goto: bool = False


Target = (
    Accept
    | Drop
    | Return
    | Jump
    | Reject
    | Dnat
    | Snat
    | Masquerade
    | Redirect
    | Netmap
    | SetMark
    | SetConnmark
    | Ct
    | Tproxy
    | Log
    | TraceTarget
    | SetTarget
    | Tcpmss
    | Checksum
    | UnknownTarget
)
