"""What runs in the namespaces of a measurement: makes them, loads rules, sends bursts of packets. The standard library alone.

    client eth0 <- AF_PACKET, sendmmsg ... in0 (node) out0 ... endpoints eth0: dropped, for it is addressed to somebody else

Law: `agent.py DIRECTORY` reads DIRECTORY/request.json, prints one answer as JSON on stdout and what it is doing as lines on
stderr. It measures and decides nothing. A packet that is put on a veth is received, routed and sent on by the kernel before the
sender goes on (veth.c, dev.c netif_rx, the softirq of the same processor): the time of the sending loop is that of the packets'
whole way. Bursts during which the scheduler took the processor away are thrown away and counted.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netlab.lab.holder import Holder

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
ETH_P_IP = 0x800
NETLINK_NETFILTER = 12
IPT_SO_GET_INFO = 64  # netfilter_ipv4/ip_tables.h
WARM_UP = 8  # packets before anything is timed
MOST, LEAST = 128, 8  # packets of a burst
FIRST_PORT, PORTS = 1024, 64_000  # source ports of new flows
TRIES = 6  # attempts for each burst that is wanted, where the processor is taken away again and again
AGAIN = 4  # every so many contenders, the node without rules once more
RUN, NETNS = "/run", "/run/netns"
# nfnetlink.h, nfnetlink_conntrack.h: IPCTNL_MSG_CT_DELETE without a tuple removes every connection of the namespace
FLUSH = struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 1 | 4, 1, 0, 0, 0, 0)

Json = dict[str, Any]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def failed(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


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

    def ports(self, ports: list[int]) -> None:
        """Give every frame its own UDP source port."""
        for vector, port in zip(self.vectors, ports, strict=True):
            ctypes.memmove(vector.base + 34, port.to_bytes(2, "big"), 2)

    def send(self, fd: int) -> tuple[int, bool]:
        """Nanoseconds of the system call, and whether the processor was ours all the time."""
        with _undisturbed():
            before = resource.getrusage(resource.RUSAGE_THREAD)
            start = time.perf_counter_ns()
            sent = LIBC.sendmmsg(fd, self.messages, self.count, 0)
            taken = time.perf_counter_ns() - start
            after = resource.getrusage(resource.RUSAGE_THREAD)
        if sent != self.count:
            raise OSError(ctypes.get_errno(), f"{sent} of {self.count} packets were sent")
        return taken, (after.ru_nivcsw, after.ru_nvcsw) == (before.ru_nivcsw, before.ru_nvcsw)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Before all ordinary processes (SCHED_FIFO), for the milliseconds of a burst; an ordinary user must do without."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


class Site:
    """The namespaces of one contender, its sockets, and what was measured there."""

    def __init__(self, spec: Json, module: Any) -> None:
        self.spec, self.module = spec, module
        if LIBC.mount(b"tmpfs", NETNS.encode(), b"tmpfs", 0, None) != 0:  # over the one before: every site has the same names
            raise failed("mount tmpfs")
        self.holder: Holder = module.Holder()
        self.drawn = int.from_bytes(os.urandom(2), "big")
        self.bursts: list[tuple[Json, Burst]] = []
        self.ns: dict[str, list[float]] = {f"{one['to']} {one['kind']}": [] for one in spec["targets"]}
        self.lost = 0
        self.loads: list[float] = []
        self.updates: list[float] = []
        self.memory: list[int] = []
        self.tables: dict[str, list[int]] = {}
        for action in spec["furniture"]:
            match action["type"]:
                case "netns":
                    self.holder.add_netns(action["name"])
                case "sysctls":
                    self.holder.sysctls(action["ns"], action["settings"], action.get("optional", False))
                case _:
                    with self.holder.inside(action["ns"]):
                        self.command(action)
        with self.holder.inside(spec["node"]):
            self.load()
            self.conntrack = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
            self.tables = {name: table(name) for name in spec["tables"]}
        with self.holder.inside(spec["endpoints"]):
            self.behind = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # sends; `arrival` opens its own to receive
            self.behind.bind(("eth0", 0))
        with self.holder.inside(spec["client"]):
            self.client = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self.client.bind(("eth0", 0))

    # -- commands ------------------------------------------------------------------------------------------------------

    def command(self, command: Json) -> float:
        """Run a tool; seconds. Its input is a file, so that nothing but the tool is timed."""
        start = time.perf_counter()
        done = self._run(command["argv"], command["file"] or os.devnull)
        taken = time.perf_counter() - start
        if command["argv"][0].endswith("-nft-restore") and "Message too long" in done.stderr:
            return self._in_parts(command)
        if done.returncode != 0:
            raise OSError(f"{' '.join(command['argv'])}: {said(done)}")
        return taken

    def _run(self, argv: list[str], path: str) -> subprocess.CompletedProcess[str]:
        with open(path) as file:
            return subprocess.run(argv, stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)

    def _in_parts(self, command: Json) -> float:
        """See holder.py restore_in_parts: what an ordinary user may send at once is bounded."""
        with open(command["file"]) as file:
            pieces = self.module.in_parts(file.read())
        taken = 0.0
        for n, piece in enumerate(pieces):
            path = f"{RUN}/netlab-part"
            with open(path, "w") as file:
                file.write(piece)
            argv = [*command["argv"], *(["--noflush"] if n else [])]
            start = time.perf_counter()
            done = self._run(argv, path)
            taken += time.perf_counter() - start
            if done.returncode != 0:
                raise OSError(f"{' '.join(argv)}: {said(done)}")
        return taken

    def load(self) -> None:
        """All rules, into the present network namespace."""
        if self.spec["load"]:
            before = memory()
            self.loads.append(sum(self.command(each) for each in self.spec["load"]))
            self.memory.append(memory() - before)

    def load_again(self) -> None:
        """The same into a fresh network namespace, which is gone afterwards."""
        if LIBC.unshare(CLONE_NEWNET) != 0:
            raise failed("unshare")
        try:
            self.load()
        finally:
            if LIBC.setns(self.holder.own, CLONE_NEWNET) != 0:
                raise failed("setns back")

    def update(self) -> None:
        """One service's endpoint moves; the next time, back."""
        with self.holder.inside(self.spec["node"]):
            commands = self.spec["updates"][len(self.updates) % 2]
            self.updates.append(sum(self.command(each) for each in commands))

    # -- packets -------------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """No connections: the next packet of every flow is its first."""
        self.conntrack.send(FLUSH)
        code = struct.unpack("=i", self.conntrack.recv(4096)[16:20])[0]
        if code != 0:
            raise OSError(-code, "conntrack flush")

    def packet(self, to: str, sport: int, src: str = "") -> bytes:
        s = self.spec
        return frame(s["in0_mac"], s["client_mac"], src or s["client_ip"], to, sport, s["port"], s["size"])

    def renew(self, burst: Burst) -> Burst:
        """Other source ports: flows that neither connection tracking nor IPVS, which is not to be flushed, has seen of late."""
        burst.ports([FIRST_PORT + (self.drawn + n) % PORTS for n in range(burst.count)])
        self.drawn += burst.count
        return burst

    def burst(self, to: str, count: int, new: bool) -> Burst:
        first = self.spec["sport"]
        return Burst([self.packet(to, first + (n if new else 0)) for n in range(count)])

    def arrival(self, to: str, sport: int) -> tuple[str, int]:
        """Send one packet; address and port to which it comes out of the node."""
        with self.holder.inside(self.spec["endpoints"]):
            watching = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        with watching:
            watching.bind(("eth0", ETH_P_IP))
            watching.settimeout(5)
            self.client.send(self.packet(to, sport))
            try:
                while True:
                    seen = watching.recv(2048)
                    if seen[23] == socket.IPPROTO_UDP and struct.unpack("!H", seen[34:36])[0] == sport:
                        return socket.inet_ntoa(seen[30:34]), struct.unpack("!H", seen[36:38])[0]
            except TimeoutError:
                raise OSError(f"{self.spec['name']}: the packet to {to} does not come out of the node") from None

    def open(self, target: Json) -> None:
        """A flow, and an answer to it. Nobody looks at which endpoint was chosen: each of them answers, one of them is heard."""
        s = self.spec
        self.client.send(self.packet(target["to"], s["sport"]))
        for endpoint in target["endpoints"]:
            reply = frame(s["out0_mac"], s["endpoints_mac"], endpoint, s["client_ip"], s["target_port"], s["sport"], s["size"])
            self.behind.send(reply)

    def received(self) -> int:
        """Packets that the endpoints' device has received."""
        with self.holder.inside(self.spec["endpoints"]), open("/proc/thread-self/net/dev") as file:
            return next(int(line.split()[2]) for line in file if line.strip().startswith("eth0:"))

    def prepare(self, target: Json, seconds: float) -> None:
        """Make sure that packets arrive where they should, and make bursts that last so long."""
        to, new, fd = target["to"], target["kind"] == "new", self.client.fileno()
        self.forget()
        endpoint, port = self.arrival(to, self.spec["sport"])
        if endpoint not in target["endpoints"] or port != self.spec["target_port"]:
            raise OSError(f"{self.spec['name']}: the packet to {to} goes to {endpoint}:{port}")
        self.open(target)
        probe = self.burst(to, WARM_UP, new)
        for _ in range(3):
            if new:
                self.renew(probe)
            taken = probe.send(fd)[0]
        size = max(LEAST, min(MOST, int(seconds * 1e9 * WARM_UP / taken)))
        self.bursts.append((target, self.burst(to, size, new)))

    def round(self, repeats: int) -> tuple[int, int]:
        """Nanoseconds a packet of the fastest undisturbed burst to each target; how many were sent, and how many disturbed."""
        total = bad = 0
        fd = self.client.fileno()
        for target, burst in self.bursts:
            new = target["kind"] == "new"
            if not new:
                self.forget()
                self.open(target)
            arrived, sent = self.received(), 0
            kept: list[float] = []
            for _ in range(repeats * TRIES):
                if new:
                    self.forget()
                    self.renew(burst)
                taken, ours = burst.send(fd)
                sent, total, bad = sent + burst.count, total + 1, bad + (not ours)
                if ours:
                    kept.append(taken / burst.count)
                if len(kept) == repeats:
                    break
            if not kept:
                raise OSError("the machine is too busy to measure anything: every burst of packets was interrupted")
            self.ns[f"{target['to']} {target['kind']}"].append(min(kept))  # whatever else the machine does can only add
            self.lost += sent - (self.received() - arrived)
        return total, bad

    def found(self) -> Json:
        return {
            "ns": self.ns, "lost": self.lost, "loads": self.loads, "updates": self.updates, "memory": self.memory,
            "tables": self.tables,
        }  # fmt: skip


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What a tool complained of, in one line."""
    return " ".join(done.stderr.split())[:300] or f"status {done.returncode}"


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
            raise failed(f"IPT_SO_GET_INFO {name}")
    return list(struct.unpack_from("=2I", value.raw, 76))


def perform(request: Json) -> Json:
    """Everything, interleaved: in every round all sites in turn."""
    spec = importlib.util.spec_from_file_location("holder", request["holder"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if LIBC.mount(b"tmpfs", RUN.encode(), b"tmpfs", 0, None) != 0:  # xtables.lock, names of namespaces: private
        raise failed("mount tmpfs on /run")
    os.mkdir(NETNS)
    cpu = int(LIBC.sched_getcpu())
    os.sched_setaffinity(0, {cpu})
    for tool in sorted({command["argv"][0] for one in request["sites"] for command in one["load"]}):  # read from the disk once
        subprocess.run([tool, "--version" if tool != "ip" else "-V"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    sites = []
    for n, one in enumerate(request["sites"]):
        say(f"loading {n + 1} of {len(request['sites'])}: {one['name']}")
        sites.append(Site(one, module))
    say("warming up")
    for site in sites:
        for target in site.spec["targets"]:
            site.prepare(target, request["seconds"])
    bursts = disturbed = 0
    for number in range(request["rounds"]):
        say(f"round {number + 1} of {request['rounds']}: packets")
        for n, site in enumerate(sites):
            for one in (sites[0], site) if n % AGAIN == AGAIN - 1 else (site,):  # the node without rules, against which all count
                sent, bad = one.round(request["repeats"])
                bursts, disturbed = bursts + sent, disturbed + bad
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    for number in range(request["loads"]):
        say(f"round {number + 1} of {request['loads']}: loads and updates")
        for site in sites:
            if site.spec["updates"]:
                for times, again in ((site.updates, site.update), (site.loads, site.load_again)):
                    if not times or (number and sum(times) + times[-1] <= request["patience"]):
                        again()
    return {"sites": {site.spec["name"]: site.found() for site in sites}, "bursts": bursts, "disturbed": disturbed}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command at the terminal, which ends this one
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # process 1 of its namespace has no default action
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    os.chdir(sys.argv[1])  # reachable even where it lies under /run, which will be covered
    with open("request.json") as file:
        request = json.load(file)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        answer = perform(request)
    except MemoryError:
        answer = {"error": "not enough memory"}
    except OSError as error:
        answer = {"error": error.strerror if error.strerror and error.filename is None else str(error)}
    except Exception as error:
        if type(error).__name__ != "Refused":
            raise
        answer = {"error": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
