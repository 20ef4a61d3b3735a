"""The one process inside private namespaces: it runs commands there, holds the ends of wires, and sends packets.

Started by namespaces.py under `unshare -nm` (root) or `unshare -Urnm` (anyone); its own network namespace is "agent" for `ip
netns`. One JSON request per line on stdin, one JSON answer per line on stdout. Law: it ends when stdin closes or its parent
dies, and the kernel then removes everything it made. It decides nothing. Only the standard library is imported, to start at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
ETH_P_ALL = 3
PACKET_OUTGOING = 4
NETLINK_NETFILTER = 12
NETNS_DIR = "/run/netns/"
_COUNTS = re.compile(r"^\[(\d+):\d+\] -A |counter packets (\d+) bytes", re.MULTILINE)

# nfnetlink.h, nfnetlink_conntrack.h: IPCTNL_MSG_CT_DELETE without a tuple removes every connection of the namespace
_FLUSH = struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 1 | 4, 1, 0, 0, 0, 0)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def enter(ns: str) -> None:
    with open(NETNS_DIR + ns) as namespace:
        check(LIBC.setns(namespace.fileno(), CLONE_NEWNET), f"setns {ns}")


def end_of(ns: str, dev: str, protocol: int) -> socket.socket:
    """A packet socket on a device of another namespace; protocol 0: only to send."""
    enter(ns)
    try:
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
        end.bind((dev, protocol))
    finally:
        enter("agent")
    end.setblocking(False)
    return end


class Agent:
    def __init__(self) -> None:
        self.wires: dict[str, socket.socket] = {}
        self.senders: dict[tuple[str, str], socket.socket] = {}
        self.saves: list[list[str]] = []
        self.conntrack = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self.raw = {
            4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
            6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW),
        }

    def run(self, ns: str, argv: list[str], stdin: str) -> dict[str, Any]:
        inside = ["nsenter", f"--net={NETNS_DIR}{ns}", "--"] if ns else []
        done = subprocess.run([*inside, *argv], input=stdin, capture_output=True, text=True, check=False)
        return {"rc": done.returncode, "out": done.stdout, "err": done.stderr}

    def sysctls(self, settings: dict[str, str]) -> dict[str, Any]:
        for name, value in settings.items():
            with open(f"/proc/sys/net/{name.replace('.', '/')}", "w") as file:
                file.write(value + "\n")
        return {}

    def wire(self, ns: str, dev: str) -> dict[str, Any]:
        """Open the end of a wire: what comes out of it is kept, frames can be put in."""
        self.wires[ns] = end_of(ns, dev, ETH_P_ALL)
        return {}

    def send(self, ns: str, dev: str, frames: list[str]) -> dict[str, Any]:
        """Put frames on the wire of a device."""
        if (ns, dev) not in self.senders:
            self.senders[ns, dev] = end_of(ns, dev, 0)
        for frame in frames:
            self.senders[ns, dev].send(bytes.fromhex(frame))
        return {}

    def counting(self, saves: list[list[str]]) -> dict[str, Any]:
        """The commands that print rules with counters, from now on."""
        self.saves = saves
        return {"counts": self._counts()}

    def _counts(self) -> list[int]:
        found: list[int] = []
        for save in self.saves:
            done = subprocess.run(save, capture_output=True, text=True, check=True)
            found += [int(iptables or nft) for iptables, nft in _COUNTS.findall(done.stdout)]
        return found

    def _drain(self) -> list[list[str]]:
        seen = []
        for ns, end in self.wires.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, address = end.recvfrom(65535)
                    if address[2] != PACKET_OUTGOING:
                        seen.append([ns, data.hex()])
        return seen

    def forget(self, recent: bool) -> dict[str, Any]:
        """Forget all connections, and what `recent` has seen."""
        self.conntrack.send(_FLUSH)
        answer = self.conntrack.recv(4096)
        code = struct.unpack("=i", answer[16:20])[0]
        check(0 if code == 0 else -1, "conntrack flush")
        for path in glob.glob("/proc/self/net/xt_recent/*") if recent else ():
            with open(path, "w") as file:
                file.write("/\n")
        return {}

    def shot(self, at: str, data: str, family: int, dst: str) -> dict[str, Any]:
        """Send one packet (a frame from an end of a wire, IP bytes from the router); the rules' counters, what came out."""
        self._drain()
        errno = 0
        try:
            if at == "router":
                self.raw[family].sendto(bytes.fromhex(data), (dst, 0))
            else:
                self.wires[at].send(bytes.fromhex(data))
        except OSError as error:
            errno = error.errno or 0
        return {"counts": self._counts(), "seen": self._drain(), "errno": errno}


def main() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    # xtables.lock and `ip netns` live in /run: a private one, so that nothing of the host is touched
    check(LIBC.mount(b"tmpfs", b"/run", b"tmpfs", 0, None), "mount tmpfs on /run")
    os.mkdir(NETNS_DIR)
    subprocess.run(["ip", "netns", "attach", "agent", str(os.getpid())], check=True)
    agent = Agent()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(agent, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
