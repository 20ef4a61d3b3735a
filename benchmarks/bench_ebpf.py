"""An eBPF load balancer in the kernel beside the matching core: service, endpoint and DNAT of a packet, for the same services.

    python benchmarks/bench_ebpf.py [--services 30000] [--packets 1000000] [--runs 2000000] [--rounds 5]     (root and clang)

service_balancer.bpf.c is loaded with bpf(2) and run by BPF_PROG_TEST_RUN: on one processor, packet after packet, the JIT's code.
From its time that of a program is subtracted which only writes a service's address into the packet. Contenders take turns.
Law: figures are told where all packets that were looked at went to an endpoint of their service, checksums and all.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import shutil
import statistics
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from ratios import ROUNDS, node, packets_of, row, spread, timed, trace

from netlab.bench.site import CLIENT_IP, NODE, PORT, TARGET_PORT, Load, declared, endpoint_ip, service_ip, site
from netlab.linux.packet import UDP
from netlab.linux.rules import Hook
from netlab.linux.targets import Dnat
from netlab.match.batch import Answer, decide
from netlab.match.packets import Packets
from netlab.match.program import Program, compile_hook

SOURCE = Path(__file__).with_name("service_balancer.bpf.c")
MOST = 4  # endpoints of a service: it has 1 to 4
SYSCALL = {"x86_64": 321, "aarch64": 280}
MAP_CREATE, PROG_LOAD, PROG_TEST_RUN, OBJ_GET_INFO_BY_FD, MAP_UPDATE_BATCH = 0, 5, 10, 15, 26  # include/uapi/linux/bpf.h
HASH, ARRAY, SCHED_CLS = 1, 2, 3
LIBC = ctypes.CDLL(None, use_errno=True)

# The structs of service_balancer.bpf.c: keys and values of its maps. What is written ">" stands in a packet's order
CHOICE = np.dtype([("services", "u4"), ("from", "u4")])
ADDRESS = np.dtype([("address", ">u4"), ("port", ">u2"), ("ip_sum", ">u2"), ("udp_sum", ">u2"), ("unused", "u2")])
SERVICE_KEY = np.dtype([("address", ">u4"), ("port", ">u2"), ("slot", "u2"), ("protocol", "u1"), ("unused", "u1", 3)])
SERVICE = np.dtype([("backend", "u4"), ("count", "u2"), ("rev_nat", "u2"), ("flags", "u1", 4)])
BACKEND = np.dtype([("address", ">u4"), ("port", ">u2"), ("protocol", "u1"), ("flags", "u1")])
NUMBER = np.dtype("u4")
MAPS = {"choices": (ARRAY, NUMBER, CHOICE), "addresses": (ARRAY, NUMBER, ADDRESS), "services": (HASH, SERVICE_KEY, SERVICE),
        "backends": (HASH, NUMBER, BACKEND)}  # fmt: skip


def endpoints_of(number: int) -> list[int]:
    """The addresses of a service's endpoints."""
    return [endpoint_ip(number, which, MOST).value for which in range(1 + number % MOST)]


# -- bpf(2) ------------------------------------------------------------------------------------------------------------


def bpf(command: int, form: str, *values: int) -> tuple[int, tuple[int, ...]]:
    """The system call with a union bpf_attr: what it returns, and the attributes then."""
    # the length is that of what is given; the kernel takes the rest to be 0
    attributes = ctypes.create_string_buffer(struct.pack("=" + form, *values))
    size = struct.calcsize("=" + form)
    result: int = LIBC.syscall(SYSCALL[platform.machine()], command, attributes, size)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf(2), command {command}: {os.strerror(number)}")
    return result, struct.unpack_from("=" + form, attributes)


class Maps:
    """The maps of the load balancer, by name; they end with the process."""

    def __init__(self, entries: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> None:
        self.fds: dict[str, int] = {}
        for name, (kind, key, value) in MAPS.items():
            keys, _ = entries[name]
            self.fds[name], _ = bpf(MAP_CREATE, "4I", kind, key.itemsize, value.itemsize, len(keys))
            self.fill(name, *entries[name])

    def fill(self, name: str, keys: NDArray[Any], values: NDArray[Any]) -> None:
        _, key, value = MAPS[name]
        keys, values = np.ascontiguousarray(keys, key), np.ascontiguousarray(values, value)
        bpf(MAP_UPDATE_BATCH, "4Q2I2Q", 0, 0, keys.ctypes.data, values.ctypes.data, len(keys), self.fds[name], 0, 0)


class Balancer:
    """A program of service_balancer.bpf.c in the kernel."""

    def __init__(self, instructions: bytes) -> None:
        code, license_ = ctypes.create_string_buffer(instructions), ctypes.create_string_buffer(b"GPL")
        log = ctypes.create_string_buffer(1 << 16)
        try:
            self.fd, _ = bpf(PROG_LOAD, "2I2Q2IQ", SCHED_CLS, len(instructions) // 8, ctypes.addressof(code),
                             ctypes.addressof(license_), 1, len(log), ctypes.addressof(log))  # fmt: skip
        except OSError as error:
            raise SystemExit(f"{error.strerror}\n{log.value.decode()}") from None
        info = ctypes.create_string_buffer(64)
        bpf(OBJ_GET_INFO_BY_FD, "2IQ", self.fd, len(info), ctypes.addressof(info))
        self.jited = bool(struct.unpack_from("=2IQI", info)[3])

    def run(self, packet: bytes, repeat: int) -> tuple[int, int, bytes]:
        """Nanoseconds of a run, the last one's return value, and the packet behind it."""
        sent, came = ctypes.create_string_buffer(packet), ctypes.create_string_buffer(len(packet))
        _, found = bpf(PROG_TEST_RUN, "4I2Q4I2Q", self.fd, 0, len(packet), len(packet), ctypes.addressof(sent),
                       ctypes.addressof(came), repeat, 0, 0, 0, 0, 0)  # fmt: skip
        return found[7], found[1], came.raw


def compiled(maps: Mapping[str, int]) -> dict[str, bytes]:
    """The instructions of each section of the C file, with the maps' numbers put in (ELF64, relocations R_BPF_64_64)."""
    clang = shutil.which("clang")
    if clang is None:
        raise SystemExit("clang is missing: apt-get install clang")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "balancer.o"
        subprocess.run([clang, "-target", "bpf", "-mcpu=v3", "-O2", "-Wall", "-c", str(SOURCE), "-o", str(path)], check=True)
        elf = path.read_bytes()
    # elf.h: Elf64_Ehdr e_shoff, e_shentsize and on; Elf64_Shdr
    (first,), (size, count, names) = struct.unpack_from("<Q", elf, 40), struct.unpack_from("<3H", elf, 58)
    headers = [struct.unpack_from("<2I4Q2I2Q", elf, first + size * n) for n in range(count)]
    body = [elf[h[4] : h[4] + h[5]] for h in headers]

    def text(table: bytes, at: int) -> str:
        return table[at : table.index(b"\0", at)].decode()

    found = {n: bytearray(body[n]) for n, h in enumerate(headers) if h[1] == 1 and h[2] & 4 and body[n]}  # code
    for number, header in enumerate(headers):
        if header[1] != 9 or header[7] not in found:  # SHT_REL of code
            continue
        symbols = headers[header[6]]
        for at, info in struct.iter_unpack("<2Q", body[number]):
            name = text(body[symbols[6]], struct.unpack_from("<I", body[header[6]], 24 * (info >> 32))[0])
            code = found[header[7]]
            code[at + 1] |= 1 << 4  # source register: BPF_PSEUDO_MAP_FD
            struct.pack_into("<I", code, at + 4, maps[name])
    return {text(body[names], headers[n][0]).removeprefix("tc/"): bytes(code) for n, code in found.items()}


# -- the same services, for both ---------------------------------------------------------------------------------------


def checksum(data: bytes) -> int:
    """RFC 1071; 0 over data that holds its own."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(destination: int) -> bytes:
    """A packet for a service."""
    payload = b"\0" * 18
    ip = struct.pack(">2B3H2BH2I", 0x45, 0, 28 + len(payload), 0, 0, 64, UDP, 0, CLIENT_IP.value, destination)
    ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
    udp = struct.pack(">4H", 40_000, PORT, 8 + len(payload), 0) + payload
    udp = udp[:6] + struct.pack(">H", checksum(pseudo(ip, udp))) + udp[8:]
    return b"\2\0\0\0\0\2" + b"\2\0\0\0\0\1" + b"\x08\0" + ip + udp


def pseudo(ip: bytes, udp: bytes) -> bytes:
    return ip[12:20] + struct.pack(">2H", UDP, len(udp)) + udp


def map_entries(services: int) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Keys and values of the maps."""
    numbers = np.arange(services, dtype=NUMBER)
    addresses = np.zeros(services, ADDRESS)
    keys: list[tuple[int, ...]] = []
    values: list[tuple[int, ...]] = []
    backends: list[tuple[int, ...]] = []
    for n in range(services):
        vip = service_ip(n).value
        whole = frame(vip)
        addresses[n] = (vip, PORT, *struct.unpack_from(">H", whole, 24), *struct.unpack_from(">H", whole, 40), 0)
        ends = endpoints_of(n)
        keys.append((vip, PORT, 0, UDP, 0))
        values.append((0, len(ends), n + 1, 0))
        for slot, end in enumerate(ends, 1):
            keys.append((vip, PORT, slot, UDP, 0))
            values.append((len(backends), 0, n + 1, 0))
            backends.append((end, TARGET_PORT, UDP, 0))
    return {
        "choices": (np.zeros(1, NUMBER), np.array([(services, 0)], CHOICE)),
        "addresses": (numbers, addresses),
        "services": (np.array(keys, SERVICE_KEY), np.array(values, SERVICE)),
        "backends": (np.arange(len(backends), dtype=NUMBER), np.array(backends, BACKEND)),
    }


def compiled_core(services: int) -> Program:
    """kube-proxy's rules for the same services and endpoints."""
    cluster = declared(Load(MOST), services)
    slices = {
        key: tuple(replace(part, endpoints=part.endpoints[: 1 + int(key.rpartition("-")[2]) % MOST]) for part in parts)
        for key, parts in cluster.slices.items()
    }
    ruleset = site(replace(cluster, slices=slices), "iptables-legacy").namespaces[NODE].rulesets[4]
    return compile_hook(node(ruleset), 4, Hook.PREROUTING, ["nat"])


# -- one endpoint of each answer, as the kernel takes one ---------------------------------------------------------------


@numba.njit(parallel=True)
def translate(rows, places, ends, destinations, ports):  # type: ignore[no-untyped-def]
    """Draw an endpoint for each packet (xorshift64, as cheap as the kernel's own) and write it down."""
    for block in numba.prange(64):
        x = np.uint64(block + 1) * np.uint64(0x9E3779B97F4A7C15)
        for i in range(rows.size * block // 64, rows.size * (block + 1) // 64):
            x ^= x << np.uint64(13)
            x ^= x >> np.uint64(7)
            x ^= x << np.uint64(17)
            place = places[rows[i]]
            end = ends[(place >> np.uint64(8)) + ((x >> np.uint64(32)) * (place & np.uint64(0xFF)) >> np.uint64(32))]
            destinations[i], ports[i] = end >> np.uint64(16), end & np.uint64(0xFFFF)


class Translation:
    """The DNAT targets of a program's answers as arrays, by the answers' rows: what the balancer has in its maps."""

    def __init__(self, program: Program, services: int) -> None:
        every = packets_of(program, *trace(services, services, 1, "all distinct"))
        answer = decide(program, every)
        self.places = np.zeros(int(answer.row.max()) + 1, np.uint64)  # where a service's ends begin << 8 | how many
        ends: list[int] = []
        for index in range(len(every)):
            leaves = answer.leaves(index)
            targets = [leaf.target.to for leaf in leaves if isinstance(leaf.target, Dnat)]
            if len(targets) != len(leaves):
                raise SystemExit("a service without endpoints")
            if len({leaf.probability for leaf in leaves}) != 1 or self.places[answer.row[index]]:
                raise SystemExit("endpoints that are not equally likely, or two services with one row")
            self.places[answer.row[index]] = len(ends) << 8 | len(leaves)
            ends += [to.low.value << 16 | to.port_low for to in targets if to.low is not None and to.port_low is not None]
        self.ends = np.array(ends, np.uint64)

    def decided(self, program: Program, packets: Packets) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
        """Every packet's new destination and port."""
        answer: Answer = decide(program, packets)
        destinations, ports = np.empty(len(packets), np.uint32), np.empty(len(packets), np.uint16)
        translate(answer.row, self.places, self.ends, destinations, ports)
        return destinations, ports


# -- measuring ---------------------------------------------------------------------------------------------------------


def look_at(balancer: Balancer, services: int) -> int:
    """Run it packet by packet: each came to a backend of its service, and the checksums are right."""
    reached = set()
    for _ in range(3_000):
        _, number, came = balancer.run(frame(service_ip(0).value), 1)
        ip, udp = came[14:34], came[34:]
        destination, port = struct.unpack_from(">I", ip, 16)[0], struct.unpack_from(">H", udp, 2)[0]
        if not 1 <= number <= services or destination not in endpoints_of(number - 1) or port != TARGET_PORT:
            raise SystemExit(f"the balancer took service {number - 1} to {destination:#x}:{port}")
        if checksum(ip) or checksum(pseudo(ip, udp)):
            raise SystemExit(f"wrong checksum for service {number - 1}")
        reached.add(number)
    return len(reached)


def look_at_ours(numbers: NDArray[np.uint32], found: tuple[NDArray[np.uint32], NDArray[np.uint16]]) -> None:
    """Every destination is an endpoint of its service, and each of its endpoints is drawn as often."""
    which = found[0].astype(np.int64) - endpoint_ip(0, 0, MOST).value - numbers.astype(np.int64) * MOST
    if not ((which >= 0) & (which <= numbers % MOST)).all() or not (found[1] == TARGET_PORT).all():
        raise SystemExit("the core took a packet to another service's endpoint")
    drawn = np.bincount(which[numbers % MOST == MOST - 1], minlength=MOST)
    if drawn.max() > 1.1 * drawn.min():
        raise SystemExit(f"the core's endpoints were drawn {drawn} times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--services", type=int, default=30_000)
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    if platform.machine() not in SYSCALL:
        raise SystemExit(f"the number of bpf(2) on {platform.machine()} is not known here")
    try:
        maps = Maps(map_entries(asked.services))
    except OSError as error:
        raise SystemExit(f"{error.strerror}: root is needed (CAP_BPF, CAP_NET_ADMIN), and CONFIG_BPF_SYSCALL") from None
    programs = {name: Balancer(code) for name, code in compiled(maps.fds).items()}
    if not all(program.jited for program in programs.values()):
        raise SystemExit("the kernel interprets the program: sysctl net.core.bpf_jit_enable=1")
    reached = look_at(programs["balance"], asked.services)
    program = compiled_core(asked.services)
    translation = Translation(program, asked.services)
    sources, destinations = trace(asked.services, asked.packets, 1)
    packets = packets_of(program, sources, destinations)
    look_at_ours(destinations - np.uint32(service_ip(0).value), translation.decided(program, packets))
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} processors; {asked.services:,} services of 1 to {MOST} "
          f"endpoints; looked at: the balancer's packets for {reached:,} of them, all of the core's")  # fmt: skip

    one = packets_of(program, sources, np.full_like(destinations, service_ip(asked.services // 2).value))
    threads = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    kinds = {"one service again and again": (one, (1, asked.services // 2)), "any service": (packets, (asked.services, 0))}
    rows: dict[str, list[float]] = {}

    def tell(name: str, seconds: float) -> None:
        rows.setdefault(name, []).append(seconds)

    for _ in range(asked.rounds):
        for kind, (some, choice) in kinds.items():
            maps.fill("choices", np.zeros(1, NUMBER), np.array([choice], CHOICE))
            for count in (1, threads):
                without, whole = (seconds(programs[name], asked.runs, count) for name in ("select", "balance"))
                tell(f"{kind}, {count}: eBPF", whole - without)
                tell(f"{kind}, {count}: (what was subtracted)", without)
                numba.set_num_threads(count)
                tell(f"{kind}, {count}: core", timed(lambda: decide(program, some)) / asked.packets)  # noqa: B023
                spent = timed(lambda: translation.decided(program, some)) / asked.packets  # noqa: B023
                tell(f"{kind}, {count}: core, one endpoint drawn", spent)
    print(f"\nservices, processors: contender; nanoseconds a packet, minimum / median of {asked.rounds} rounds in turn")
    for name, times in rows.items():
        kind, _, who = name.partition(": ")
        row(name, spread(times), f"{ratio(rows[kind + ': eBPF'], times)}" if who.startswith("core") else "")
    fastest = rows[f"any service, {threads}: core"]
    print(f"one packet on one processor, as the kernel does it, beside the core on {threads}: "
          f"{ratio(rows['any service, 1: eBPF'], fastest)}")  # fmt: skip


def seconds(balancer: Balancer, runs: int, processors: int) -> float:
    """Seconds a packet, where so many processors run the program at once."""
    allowed = sorted(os.sched_getaffinity(0))

    def run(which: int) -> float:
        os.sched_setaffinity(0, {allowed[which % len(allowed)]})
        return balancer.run(frame(service_ip(0).value), runs)[0] / 1e9

    with ThreadPoolExecutor(processors) as pool:
        return statistics.mean(pool.map(run, range(processors))) / processors


def ratio(theirs: list[float], ours: list[float]) -> str:
    """How many times as long they take: minima, medians."""
    return f"{min(theirs) / min(ours):.1f}x / {statistics.median(theirs) / statistics.median(ours):.1f}x"


if __name__ == "__main__":
    main()
