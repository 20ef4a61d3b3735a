"""IPVS's connections (`ipvsadm -Lnc`): client -> virtual service -> real server, found from either side.

    incoming:  client:cport > virtual:vport         outgoing:  server:dport > client:cport, or
                                                               virtual:vport > client:cport where nothing is translated
Law: lookups are those of net/netfilter/ipvs/ip_vs_conn.c (ip_vs_conn_in_get, ip_vs_conn_out_get); `inverse` swaps the two ends
of the tuple first (IP_VS_HDR_INVERSE), as for the packet that an ICMP error quotes. A table belongs to one namespace in one walk.
"""

from __future__ import annotations

import msgspec

from netlab.linux.addr import Ip
from netlab.linux.ipvs import Method, RealServer, VirtualService
from netlab.linux.packet import Flow


class IpvsConnection(msgspec.Struct, frozen=True):
    """struct ip_vs_conn.

    `conntrack`: net.ipv4.vs.conntrack was on when it was made (IP_VS_CONN_F_NFCT); `control` the port of the persistence template
    that it was made from, None without one.
    """

    protocol: int
    client: Ip
    cport: int
    virtual: Ip
    vport: int
    server: Ip
    dport: int
    method: Method
    conntrack: bool
    service: VirtualService
    real: RealServer
    control: int | None = None


class IpvsConnections:
    """The connections of one namespace, and its persistence templates."""

    def __init__(self) -> None:
        self._in: dict[Flow, IpvsConnection] = {}
        self._out: dict[Flow, IpvsConnection] = {}
        self.templates: dict[object, RealServer] = {}

    def add(self, made: IpvsConnection) -> None:
        """ip_vs_conn_hash."""
        self._in[Flow(made.protocol, made.client, made.cport, made.virtual, made.vport)] = made
        source = (made.server, made.dport) if made.method is Method.MASQUERADE else (made.virtual, made.vport)
        self._out[Flow(made.protocol, *source, made.client, made.cport)] = made

    def incoming(self, flow: Flow, inverse: bool = False) -> IpvsConnection | None:
        """The connection of a packet from a client to a virtual service."""
        return self._in.get(flow.reversed() if inverse else flow)

    def outgoing(self, flow: Flow, inverse: bool = False) -> IpvsConnection | None:
        """The connection of a packet from a real server to a client."""
        return self._out.get(flow.reversed() if inverse else flow)
