"""What the holder sees of packets on their way: frames on every device, the kernel's rule trace, connections, rules.

    AF_PACKET (all devices of a namespace) --- frames        NETLINK_NETFILTER --- NFT_MSG_TRACE, dumps of conntrack and rules

Loaded by holder.py from beside it, with the standard library alone. Law: nothing is interpreted here; frames and netlink
messages leave as the kernel gave them (base64), and kernel_trace.py, crossings.py and entries.py read them.
"""

from __future__ import annotations

import base64
import errno
import socket
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

Inside = Callable[[str], AbstractContextManager[None]]
Json = dict[str, Any]

NETLINK_NETFILTER = 12
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTRACE = 270, 1, 9  # <linux/netlink.h>, <linux/netfilter/nfnetlink.h>
SO_RCVBUFFORCE = 33
ETH_P_ALL = 3
NLM_F_REQUEST, NLM_F_DUMP, NLMSG_ERROR, NLMSG_DONE = 1, 0x300, 2, 3
BUFFER = 8 << 20  # bytes; an ordinary user gets net.core.rmem_max
SNAP = 192  # bytes of a packet that are kept: all headers, and the packet that an ICMP error quotes

# netlink messages that are asked for by name: nfnetlink subsystem << 8 | message
DUMPS = {
    "connections": 1 << 8 | 1,  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
    "rules": 10 << 8 | 7,  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETRULE
}


class Watch:
    """The sockets that listen in one namespace."""

    def __init__(self, rules: bool) -> None:
        """In the namespace of the calling thread."""
        self.packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self.rules: socket.socket | None = None
        if rules:
            self.rules = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
            self.rules.bind((0, 0))
            self.rules.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTRACE)
        for sock in (self.packets, self.rules):
            if sock is not None:
                sock.setblocking(False)
                _widen(sock)

    def take(self) -> Json:
        """All that has come since the last time; `lost` where the kernel's buffer was too small for it."""
        lost = False
        frames: list[list[Any]] = []
        while True:
            try:
                data, address = self.packets.recvfrom(SNAP)
            except OSError as error:
                if error.errno == errno.ENETDOWN:
                    continue
                break
            frames.append([address[0], address[1], address[2], base64.b64encode(data).decode()])
        dropped = struct.unpack("=II", self.packets.getsockopt(263, 6, 8))[1]  # SOL_PACKET, PACKET_STATISTICS
        trace: list[str] = []
        while self.rules is not None:
            try:
                trace.append(base64.b64encode(self.rules.recv(1 << 16)).decode())
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    lost = True
                    continue
                break
        return {"frames": frames, "trace": trace, "lost": lost or dropped > 0}

    def close(self) -> None:
        self.packets.close()
        if self.rules is not None:
            self.rules.close()


class Watches:
    """The namespaces that are watched."""

    def __init__(self, inside: Inside) -> None:
        self.inside = inside
        self.open: dict[str, Watch] = {}

    def watch(self, spaces: list[str], rules: list[str]) -> None:
        """Listen in these namespaces and no others; `rules` are those whose rule trace is wanted, too."""
        self.close()
        for ns in spaces:
            with self.inside(ns):
                self.open[ns] = Watch(ns in rules)

    def take(self) -> Json:
        return {ns: watch.take() for ns, watch in self.open.items()}

    def close(self) -> None:
        for watch in self.open.values():
            watch.close()
        self.open.clear()

    def dump(self, spaces: list[str], what: str) -> Json:
        """A dump of every namespace: the messages, in the kernel's order."""
        found = {}
        for ns in spaces:
            with self.inside(ns):
                found[ns] = [base64.b64encode(data).decode() for data in _dump(DUMPS[what])]
        return found


def _widen(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)


def _dump(message: int) -> list[bytes]:
    """A netlink dump of all families; a kernel without that subsystem has nothing to dump."""
    found: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
        sock.bind((0, 0))
        sock.send(struct.pack("=IHHII", 20, message, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + b"\0\0\0\0")
        while True:
            data = sock.recv(1 << 18)
            place = 0
            while place + 16 <= len(data):
                length, kind = struct.unpack_from("=IH", data, place)
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", data, place + 16)[0]
                    if number in (errno.EINVAL, errno.EOPNOTSUPP):
                        return found
                    raise OSError(number, f"netlink dump {message:#x}")
                found.append(data[place : place + length])
                place += (length + 3) & ~3
