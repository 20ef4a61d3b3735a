"""The targets of the rule IR: what a rule does to a packet.

Law: one class per iptables target, fields as the kernel stores them, `str()` exactly what iptables-save prints, from `-j`
on. What a target does is decided in trace/. Sources: iptables-extensions(8), net/netfilter/xt_*.c.
"""

from __future__ import annotations

import msgspec

from netlab.linux.addr import Ip
from netlab.linux.matches import mask_text


class Accept(msgspec.Struct, frozen=True, gc=False):
    """`-j ACCEPT`."""

    def __str__(self) -> str:
        return "-j ACCEPT"


class Drop(msgspec.Struct, frozen=True, gc=False):
    """`-j DROP`."""

    def __str__(self) -> str:
        return "-j DROP"


class Return(msgspec.Struct, frozen=True, gc=False):
    """`-j RETURN`."""

    def __str__(self) -> str:
        return "-j RETURN"


class Jump(msgspec.Struct, frozen=True, gc=False):
    """`-j CHAIN`, or `-g CHAIN` where `goto`."""

    chain: str
    goto: bool = False

    def __str__(self) -> str:
        return f"-g {self.chain}" if self.goto else f"-j {self.chain}"


class Reject(msgspec.Struct, frozen=True, gc=False):
    """`-j REJECT --reject-with TYPE`; `kind` in the tool's words ("icmp-port-unreachable", "tcp-reset")."""

    kind: str

    def __str__(self) -> str:
        return f"-j REJECT --reject-with {self.kind}"


class NatRange(msgspec.Struct, frozen=True, gc=False):
    """What a NAT target may choose from: addresses (None: keep), ports (None: keep), and how.

    A single address or port has no `high` (None), never `high` equal to `low`: that is what the parser makes, so that
    equal rules are equal values. `base_port` is the base of a shifted port map (`--to-destination A:1000-2000/3000`).
    """

    low: Ip | None = None
    high: Ip | None = None
    port_low: int | None = None
    port_high: int | None = None
    base_port: int | None = None
    random: bool = False
    random_fully: bool = False
    persistent: bool = False

    @property
    def ports(self) -> str:
        """`80`, `80-90`, `80-90/100`; "" where ports are kept."""
        if self.port_low is None:
            return ""
        text = str(self.port_low)
        if self.port_high is not None and (self.port_high != self.port_low or self.base_port is not None):
            text += f"-{self.port_high}"
            if self.base_port is not None:
                text += f"/{self.base_port}"
        return text

    @property
    def address(self) -> str:
        """`10.0.0.1:80`, `10.0.0.1-10.0.0.9`, `[fd00::1]:80`, `:80`: what follows --to-source and --to-destination."""
        text = ""
        if self.low is not None:
            text = str(self.low)
            if self.high is not None and self.high != self.low:
                text += f"-{self.high}"
            if self.port_low is not None and self.low.family == 6:
                text = f"[{text}]"
        return f"{text}:{self.ports}" if self.port_low is not None else text

    @property
    def flags(self) -> str:
        """The flags, each with a space before it, in the order of libxt_NAT.c."""
        return (
            (" --random" if self.random else "")
            + (" --random-fully" if self.random_fully else "")
            + (" --persistent" if self.persistent else "")
        )


class Dnat(msgspec.Struct, frozen=True, gc=False):
    """`-j DNAT --to-destination ...`."""

    to: NatRange

    def __str__(self) -> str:
        return f"-j DNAT --to-destination {self.to.address}{self.to.flags}"


class Snat(msgspec.Struct, frozen=True, gc=False):
    """`-j SNAT --to-source ...`."""

    to: NatRange

    def __str__(self) -> str:
        return f"-j SNAT --to-source {self.to.address}{self.to.flags}"


class Masquerade(msgspec.Struct, frozen=True, gc=False):
    """`-j MASQUERADE [--to-ports A-B] [--random] [--random-fully]`."""

    to: NatRange = NatRange()

    def __str__(self) -> str:
        ports = f" --to-ports {self.to.ports}" if self.to.port_low is not None else ""
        return f"-j MASQUERADE{ports}{self.to.flags}"


class Redirect(msgspec.Struct, frozen=True, gc=False):
    """`-j REDIRECT [--to-ports A-B] [--random]`."""

    to: NatRange = NatRange()

    def __str__(self) -> str:
        ports = f" --to-ports {self.to.ports}" if self.to.port_low is not None else ""
        return f"-j REDIRECT{ports}{self.to.flags}"


class Netmap(msgspec.Struct, frozen=True, gc=False):
    """`-j NETMAP --to PREFIX`: `value` and `mask` are integers."""

    family: int
    value: int
    mask: int

    def __str__(self) -> str:
        return f"-j NETMAP --to {Ip(self.family, self.value)}/{mask_text(self.family, self.mask)}"


class SetMark(msgspec.Struct, frozen=True, gc=False):
    """`-j MARK --set-xmark VALUE/MASK`: mark = (mark & ~mask) ^ value. All MARK spellings reduce to it."""

    value: int
    mask: int = 0xFFFFFFFF

    def __str__(self) -> str:
        return f"-j MARK --set-xmark {self.value:#x}/{self.mask:#x}"


class SetConnmark(msgspec.Struct, frozen=True, gc=False):
    """`-j CONNMARK`. `action` is "set" (ctmark = (ctmark & ~ctmask) ^ value), "save" or "restore" (with nfmask, ctmask)."""

    action: str
    value: int = 0
    ctmask: int = 0xFFFFFFFF
    nfmask: int = 0xFFFFFFFF

    def __str__(self) -> str:
        if self.action == "set":
            return f"-j CONNMARK --set-xmark {self.value:#x}/{self.ctmask:#x}"
        return f"-j CONNMARK --{self.action}-mark --nfmask {self.nfmask:#x} --ctmask {self.ctmask:#x}"


class Ct(msgspec.Struct, frozen=True, gc=False):
    """`-j CT`, and `-j NOTRACK` where `bare`; `extra` keeps options that do not decide a packet's path (helper, timeout ...)."""

    notrack: bool = False
    zone: int | None = None
    zone_direction: str = ""  # "", "orig" or "reply"
    extra: str = ""
    bare: bool = False

    def __str__(self) -> str:
        if self.bare:
            return "-j NOTRACK"
        text = "-j CT --notrack" if self.notrack else "-j CT"
        if self.extra:
            text += f" {self.extra}"
        if self.zone is not None:
            text += f" --zone{'-' if self.zone_direction else ''}{self.zone_direction} {self.zone}"
        return text


class Tproxy(msgspec.Struct, frozen=True, gc=False):
    """`-j TPROXY --on-port P --on-ip A --tproxy-mark V/M`; `ip` None: the incoming device's, written as all zeros."""

    port: int
    ip: Ip | None = None
    mark: int = 0
    mask: int = 0
    family: int = 4

    def __str__(self) -> str:
        where = self.ip if self.ip is not None else Ip(self.family, 0)
        return f"-j TPROXY --on-port {self.port} --on-ip {where} --tproxy-mark {self.mark:#x}/{self.mask:#x}"


class Log(msgspec.Struct, frozen=True, gc=False):
    """`-j LOG` or `-j NFLOG`; options as text. The packet goes on."""

    kind: str
    text: str = ""

    def __str__(self) -> str:
        return f"-j {self.kind} {self.text}" if self.text else f"-j {self.kind}"


class TraceTarget(msgspec.Struct, frozen=True, gc=False):
    """`-j TRACE`. The packet goes on."""

    def __str__(self) -> str:
        return "-j TRACE"


class SetTarget(msgspec.Struct, frozen=True, gc=False):
    """`-j SET --add-set|--del-set|--map-set ...` as text. The packet goes on."""

    text: str

    def __str__(self) -> str:
        return f"-j SET {self.text}"


class Tcpmss(msgspec.Struct, frozen=True, gc=False):
    """`-j TCPMSS --set-mss N` or `--clamp-mss-to-pmtu` (mss None). The packet goes on."""

    mss: int | None = None

    def __str__(self) -> str:
        return "-j TCPMSS --clamp-mss-to-pmtu" if self.mss is None else f"-j TCPMSS --set-mss {self.mss}"


class Checksum(msgspec.Struct, frozen=True, gc=False):
    """`-j CHECKSUM --checksum-fill`. The packet goes on."""

    def __str__(self) -> str:
        return "-j CHECKSUM --checksum-fill"


class UnknownTarget(msgspec.Struct, frozen=True, gc=False):
    """A target that netlab does not model: its name and the text of its options, kept whole."""

    name: str
    text: str = ""
    goto: bool = False

    def __str__(self) -> str:
        head = f"-g {self.name}" if self.goto else f"-j {self.name}"
        return f"{head} {self.text}" if self.text else head


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
