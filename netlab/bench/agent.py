"""What runs in the namespaces of a measurement: bursts of packets, and timed commands. The standard library alone.

    client eth0 <- AF_PACKET, sendmmsg ... in0 (node) out0 ... endpoints eth0: dropped, for it is addressed to somebody else

Law: one request as JSON on stdin, one answer on stdout. It measures and decides nothing. A packet that is put on a veth is
received, routed and sent on by the kernel before the sender goes on (veth.c, dev.c netif_rx, the softirq of the same processor):
the time of the sending loop is the time of the packets' whole way. Bursts during which the scheduler took the processor away are
thrown away and counted.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
ETH_P_IP = 0x800
NETLINK_NETFILTER = 12
IPT_SO_GET_INFO = 64  # netfilter_ipv4/ip_tables.h
TARGET_SECONDS = 0.0015  # how long a burst should last: shorter than a time slice
WARM_UP = 8  # packets before anything is timed
MOST, LEAST = 128, 8  # packets of a burst
STRANGERS = 100 * 250  # source addresses of new flows
TRIES = 6  # attempts for each burst that is wanted, where the processor is taken away again and again
# nfnetlink.h, nfnetlink_conntrack.h: IPCTNL_MSG_CT_DELETE without a tuple removes every connection of the namespace
FLUSH = struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 1 | 4, 1, 0, 0, 0, 0)


def enter(ns: str) -> None:
    with open(f"/run/netns/{ns}") as file:
        if LIBC.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {ns}")


def checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(dst_mac: str, src_mac: str, src: str, dst: str, sport: int, dport: int, size: int) -> bytes:
    """Ethernet, IPv4, UDP without a checksum."""
    ethernet = bytes.fromhex((dst_mac + src_mac).replace(":", "")) + struct.pack("!H", ETH_P_IP)
    fields = (0x45, 0, size, 0, 0x4000, 64, socket.IPPROTO_UDP)
    addresses = socket.inet_aton(src) + socket.inet_aton(dst)
    ip = struct.pack("!BBHHHBBH", *fields, 0) + addresses
    ip = struct.pack("!BBHHHBBH", *fields, checksum(ip)) + addresses
    return ethernet + ip + struct.pack("!HHHH", sport, dport, size - 20, 0) + bytes(size - 28)


class IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(IoVec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class MMsgHdr(ctypes.Structure):
    _fields_ = (("header", MsgHdr), ("len", ctypes.c_uint32))


class Burst:
    """Frames that one system call sends."""

    def __init__(self, frames: list[bytes]) -> None:
        self.buffers = [ctypes.create_string_buffer(one, len(one)) for one in frames]
        self.vectors = (IoVec * len(frames))()
        self.messages = (MMsgHdr * len(frames))()
        for n, buffer in enumerate(self.buffers):
            self.vectors[n] = IoVec(ctypes.cast(buffer, ctypes.c_void_p), len(buffer))
            self.messages[n].header.iov = ctypes.pointer(self.vectors[n])
            self.messages[n].header.iovlen = 1
        self.count = len(frames)

    def send(self, fd: int) -> tuple[int, bool]:
        """Nanoseconds of the system call, and whether the processor was ours all the time."""
        before = resource.getrusage(resource.RUSAGE_THREAD)
        start = time.perf_counter_ns()
        sent = LIBC.sendmmsg(fd, self.messages, self.count, 0)
        taken = time.perf_counter_ns() - start
        after = resource.getrusage(resource.RUSAGE_THREAD)
        if sent != self.count:
            raise OSError(ctypes.get_errno(), f"{sent} of {self.count} packets were sent")
        return taken, (after.ru_nivcsw, after.ru_nvcsw) == (before.ru_nivcsw, before.ru_nvcsw)


class Bench:
    """The sockets of one site."""

    def __init__(self, site: dict[str, Any]) -> None:
        self.site = site
        self.drawn = int.from_bytes(os.urandom(2), "big") % STRANGERS
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0), key=lambda cpu: cpu != _cpu())})
        enter(site["node"])
        self.conntrack = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        enter(site["endpoints"])
        self.behind = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # sends; receives only where `arrival` opens its own
        self.behind.bind(("eth0", 0))
        enter(site["client"])
        self.client = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.client.bind(("eth0", 0))

    def forget(self) -> None:
        """No connections: the next packet of every flow is its first."""
        self.conntrack.send(FLUSH)
        code = struct.unpack("=i", self.conntrack.recv(4096)[16:20])[0]
        if code != 0:
            raise OSError(-code, "conntrack flush")

    def packet(self, to: str, sport: int, src: str = "") -> bytes:
        s = self.site
        return frame(s["in0_mac"], s["client_mac"], src or s["client_ip"], to, sport, s["port"], s["size"])

    def strangers(self, to: str, count: int) -> Burst:
        """The first packets of flows that neither connection tracking nor IPVS, which is not to be flushed, has ever seen."""
        self.drawn = (self.drawn + 1) % STRANGERS
        first, second = self.site["client_ip"].split(".")[:2]
        src = f"{first}.{second}.{1 + self.drawn // 250}.{1 + self.drawn % 250}"
        return Burst([self.packet(to, self.site["sport"] + n, src) for n in range(count)])

    def arrival(self, to: str, sport: int) -> tuple[str, int]:
        """Send one packet; address and port to which it comes out of the node."""
        enter(self.site["endpoints"])
        watching = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        try:
            watching.bind(("eth0", ETH_P_IP))
            watching.settimeout(2)
            self.client.send(self.packet(to, sport))
            try:
                while True:
                    seen = watching.recv(2048)
                    if seen[23] == socket.IPPROTO_UDP and struct.unpack("!H", seen[34:36])[0] == sport:
                        return socket.inet_ntoa(seen[30:34]), struct.unpack("!H", seen[36:38])[0]
            except TimeoutError:
                raise OSError(f"the packet to {to} does not come out of the node") from None
        finally:
            watching.close()

    def answered(self, to: str, sport: int) -> str:
        """Open a flow and answer it; the endpoint's address."""
        s = self.site
        endpoint, port = self.arrival(to, sport)
        self.behind.send(frame(s["out0_mac"], s["endpoints_mac"], endpoint, s["client_ip"], port, sport, s["size"]))
        return endpoint

    def received(self) -> int:
        """Packets that the endpoints' device has received."""
        enter(self.site["endpoints"])
        with open("/proc/thread-self/net/dev") as file:
            return next(int(line.split()[2]) for line in file if line.strip().startswith("eth0:"))

    def measure(self, to: str, kind: str, repeats: int) -> dict[str, Any]:
        """Nanoseconds a packet of each undisturbed burst."""
        self.forget()
        first = self.site["sport"]
        endpoint = self.answered(to, first) if kind == "established" else self.arrival(to, first)[0]
        fd = self.client.fileno()
        new = kind == "new"
        probe = self.strangers(to, WARM_UP) if new else Burst([self.packet(to, first)] * WARM_UP)
        probe.send(fd)
        each = (self.strangers(to, WARM_UP) if new else probe).send(fd)[0] / WARM_UP
        size = max(LEAST, min(MOST, int(TARGET_SECONDS * 1e9 / each)))
        same = Burst([self.packet(to, first)] * size)
        before, sent, disturbed, kept = self.received(), 0, 0, []
        for _ in range(repeats * TRIES):
            if new:
                self.forget()
            taken, ours = (self.strangers(to, size) if new else same).send(fd)
            sent += size
            if ours:
                kept.append(taken / size)
            else:
                disturbed += 1
            if len(kept) == repeats:
                break
        arrived = self.received() - before
        return {"ns": kept, "disturbed": disturbed, "burst": size, "endpoint": endpoint, "lost": sent - arrived}


def _cpu() -> int:
    return int(LIBC.sched_getcpu())


def bursts(request: dict[str, Any]) -> dict[str, Any]:
    bench = Bench(request["site"])
    return {"results": [{**one, **bench.measure(one["to"], one["kind"], request["repeats"])} for one in request["targets"]]}


def arrivals(request: dict[str, Any]) -> dict[str, Any]:
    """One packet to each service, answered where `established`; the endpoints' addresses. No time is taken."""
    bench = Bench(request["site"])
    bench.forget()
    found = []
    for one in request["targets"]:
        endpoint = bench.answered(one["to"], request["site"]["sport"])
        if one["kind"] == "established":
            bench.arrival(one["to"], request["site"]["sport"])
        found.append(endpoint)
    return {"endpoints": found}


def loads(request: dict[str, Any]) -> dict[str, Any]:
    """Run commands in a fresh network namespace; seconds of each, the kernel's memory before and after, sizes of tables."""
    if LIBC.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    before = memory()
    seconds = timed(request["commands"])
    return {"seconds": seconds, "memory": memory() - before, "tables": {name: table(name) for name in request["tables"]}}


def timed(commands: list[list[Any]]) -> list[float]:
    """Seconds of each [argv, input]; what it needs for its input is made before."""
    seconds = []
    for argv, text in commands:
        with tempfile.TemporaryFile() as file:
            file.write(text.encode())
            file.seek(0)
            start = time.perf_counter()
            done = subprocess.run(argv, stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
            seconds.append(time.perf_counter() - start)
        if done.returncode != 0:
            raise OSError(f"{' '.join(argv)}: {done.stderr.decode(errors='replace').strip()[:500]}")
    return seconds


def updates(request: dict[str, Any]) -> dict[str, Any]:
    enter(request["node"])
    return {"seconds": timed(request["commands"])}


def memory() -> int:
    """Bytes that the kernel has for itself: slabs, vmalloc, per processor."""
    with open("/proc/meminfo") as file:
        found = {line.split(":")[0]: int(line.split()[1]) for line in file}
    return 1024 * sum(found.get(name, 0) for name in ("Slab", "VmallocUsed", "Percpu"))


def table(name: str) -> list[int]:
    """Entries and bytes of a table of iptables-legacy, as the kernel tells them."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        # struct ipt_getinfo: name, valid_hooks, hook_entry, underflow, num_entries, size. It also reads, which Python's does not
        value = ctypes.create_string_buffer(name.encode(), 84)
        length = ctypes.c_uint32(84)
        if LIBC.getsockopt(raw.fileno(), socket.IPPROTO_IP, IPT_SO_GET_INFO, value, ctypes.byref(length)) != 0:
            raise OSError(ctypes.get_errno(), f"IPT_SO_GET_INFO {name}")
    return list(struct.unpack_from("=2I", value.raw, 76))


def main() -> None:
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    request = json.load(sys.stdin)
    work = {"bursts": bursts, "arrivals": arrivals, "loads": loads, "updates": updates}[request.pop("do")]
    try:
        answer = work(request)
    except OSError as error:
        answer = {"error": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
