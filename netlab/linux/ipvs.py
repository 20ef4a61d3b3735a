"""IPVS: the virtual servers of a network namespace, as `ipvsadm -S -n` prints them.

    VirtualService (protocol, address:port or firewall mark, scheduler) -> RealServer (address:port, weight, method)

Law: plain values; which server a packet gets is decided in trace/. Sources: ipvsadm(8), include/uapi/linux/ip_vs.h.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import msgspec

from netlab.linux.addr import Ip
from netlab.linux.packet import protocol_name
from netlab.refs import Ref

if TYPE_CHECKING:
    from netlab.linux.netns import Netns

# net/netfilter/ipvs/Kconfig
SCHEDULERS: Final = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh")
FTP, FTP_DATA, FIRST_UNPRIVILEGED = 21, 20, 1024
# Sysctls (net.ipv4.vs.*) whose other values are not modelled, with the value that is: they matter for new connections.
_MODELLED: Final = {"drop_packet": 0, "drop_entry": 0, "secure_tcp": 0, "backup_only": 0, "schedule_icmp": 0}


class Method(enum.Enum):
    """How packets reach a real server (IP_VS_CONN_F_FWD_MASK); the value is ipvsadm's option."""

    MASQUERADE = "-m"  # the destination is translated
    TUNNEL = "-i"  # wrapped in IPIP
    ROUTE = "-g"  # sent on as it is, to the server's MAC: ipvsadm's default


class RealServer(msgspec.Struct, frozen=True, gc=False):
    """One server behind a virtual service; weight 0 takes no new connections. `upper`, `lower`: thresholds, 0 for none.

    `tunnel` is what ipvsadm's --tun-... options say of a tunnel other than plain IPIP ("--tun-type gue --tun-port 6080").
    """

    ip: Ip
    port: int
    method: Method = Method.ROUTE
    weight: int = 1
    upper: int = 0
    lower: int = 0
    tunnel: str = ""


class VirtualService(msgspec.Struct, frozen=True):
    """One virtual service: protocol number, address and port, or (protocol 0) a firewall mark of one family.

    `flags` are the scheduler's ("sh-fallback", "sh-port", ...); `timeout` the persistence in seconds, None for none, and
    `netmask` the bits of the client's address that persistence looks at.
    """

    protocol: int
    ip: Ip | None
    port: int
    scheduler: str = "wlc"
    servers: tuple[RealServer, ...] = ()
    fwmark: int = 0
    family: int = 4
    flags: tuple[str, ...] = ()
    timeout: int | None = None
    netmask: int | None = None
    one_packet: bool = False
    engine: str = ""  # persistence engine (--pe)
    ref: Ref | None = None


def service_text(service: VirtualService) -> str:
    """`10.96.0.10:53/udp`, `fwmark 7`."""
    if service.fwmark or service.ip is None:
        return f"fwmark {service.fwmark}"
    return f"{service.ip.port(service.port)}/{protocol_name(service.protocol)}"


def unmodelled(netns: Netns, service: VirtualService) -> str:
    """What netlab does not know of how a service is scheduled, "" where it knows."""
    for name, modelled in _MODELLED.items():
        value = netns.sysctl(f"ipv4.vs.{name}", modelled)
        if value != modelled:
            return f"net.ipv4.vs.{name}={value} is not modelled"
    return f"IPVS persistence engine {service.engine} is not modelled" if service.engine else ""


def unprivileged(netns: Netns) -> int:
    """The first port that FTP's data may go to (ip_vs_ctl.c ip_vs_service_find)."""
    return netns.sysctl("ipv4.ip_unprivileged_port_start", FIRST_UNPRIVILEGED)
