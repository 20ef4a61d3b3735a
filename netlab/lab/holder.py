"""The one process inside the lab's private namespaces: carries out the plan, listens on every socket, sends the probes.

    netlab lab ... <--- socket, JSON lines ---> holder (pid 1 of its pid namespace) --- setns ---> namespaces of the lab

Started under `unshare -nmp` (root) or `unshare -Urnmp` (anyone). Law: all that it makes lives in its namespaces, so whatever
ends it (end of its control connection, SIGTERM, kill -9) makes the kernel remove everything. It decides nothing: the plan and the
probes come from outside, answers go back as they were seen. Only the standard library is imported, to start at once, and
watching.py, which lies beside this file.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import heapq
import importlib.util
import itertools
import json
import os
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netlab.lab.watching import Watches

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
NETNS_DIR = "/run/netns/"
TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
SCTP_RTOINFO = 0  # <linux/sctp.h>: struct sctp_rtoinfo
INIT_AGAIN = 250  # ms until an INIT is repeated, instead of three seconds

# <linux/in.h>, <linux/in6.h>: not in every Python's socket module
IP_MTU_DISCOVER, IP_RECVERR, IP_PKTINFO, IP_FREEBIND = 10, 11, 8, 15
IPV6_RECVERR, IPV6_PKTINFO, IPV6_RECVPKTINFO, IPV6_MTU_DISCOVER, IPV6_DONTFRAG = 25, 50, 49, 23, 62
MSG_ERRQUEUE = 0x2000
REDIRECTS = (5, 137)  # ICMP, ICMPv6
ORIGINS = {1: "local", 2: "icmp", 3: "icmp"}  # SO_EE_ORIGIN_*

# What send() says of a datagram that died at OUTPUT or POSTROUTING: NF_DROP, or no way for it after DNAT (NF_DROP_ERR)
DROPPED_HERE = (errno.EPERM, errno.EINVAL)

Json = dict[str, Any]


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


class Refused(Exception):
    """The kernel or a tool refused an action of the plan."""


class Holder:
    """Namespaces by name under /run/netns, sockets that listen, probes under way."""

    def __init__(self) -> None:
        self.own = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.spaces: dict[str, int] = {}
        self.selector = selectors.DefaultSelector()
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.count = itertools.count()
        self.arrived: dict[str, Json] = {}  # token of a datagram -> who got it, from where
        self.held: dict[int, Probe] = {}
        self.listening: dict[tuple[str, int, int, str, int], str] = {}
        self.portals: dict[tuple[str, int, int], Portal] = {}
        self.controls = 0
        self.stays = False
        self.watches = _watches(self)

    # -- namespaces ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def inside(self, ns: str) -> Iterator[None]:
        """This thread's network namespace is `ns` for a while."""
        if not ns:
            yield
            return
        _check(LIBC.setns(self.spaces[ns], CLONE_NEWNET), f"setns {ns}")
        try:
            yield
        finally:
            _check(LIBC.setns(self.own, CLONE_NEWNET), "setns back")

    def add_netns(self, name: str) -> None:
        """What `ip netns add` does, without a process for each."""
        path = NETNS_DIR + name
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o444))
        _check(LIBC.unshare(CLONE_NEWNET), "unshare")
        try:
            _check(LIBC.mount(b"/proc/thread-self/ns/net", path.encode(), b"none", 4096, None), f"bind {path}")  # MS_BIND
            self.spaces[name] = os.open(path, os.O_RDONLY)
        finally:
            _check(LIBC.setns(self.own, CLONE_NEWNET), "setns back")

    def sysctls(self, ns: str, settings: list[list[str]], optional: bool) -> None:
        with self.inside(ns):
            for path, value in settings:
                try:
                    with open("/proc/sys/net/" + path, "w") as file:
                        file.write(value)
                except OSError as error:
                    if optional:
                        continue
                    hint = ""
                    if error.errno == errno.ENOENT and path.startswith("bridge/"):
                        hint = " (the kernel module br_netfilter is not loaded: modprobe br_netfilter)"
                    raise Refused(f"{ns}: sysctl net/{path} = {value}: {error.strerror}{hint}") from error

    def run(self, ns: str, argv: list[str], stdin: str) -> subprocess.CompletedProcess[str]:
        with self.inside(ns):
            return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)

    def start_run(self, ns: str, argv: list[str], stdin: str, answer: Callable[[Json], None]) -> None:
        """Run a tool while the sockets of the lab go on answering: it may well speak with one of them."""
        files = [tempfile.TemporaryFile("w+", errors="replace") for _ in range(3)]  # noqa: SIM115  # closed when it ends
        files[0].write(stdin)
        files[0].seek(0)
        with self.inside(ns):
            process = subprocess.Popen(argv, stdin=files[0], stdout=files[1], stderr=files[2])
        end = os.pidfd_open(process.pid)

        def ended(_: int) -> None:
            self.selector.unregister(end)
            os.close(end)
            texts = []
            for file in files:
                file.seek(0)
                texts.append(file.read())
                file.close()
            answer({"rc": process.wait(), "out": texts[1], "err": texts[2]})

        self.selector.register(end, selectors.EVENT_READ, ended)

    def carry_out(self, action: Json) -> None:
        match action["type"]:
            case "netns":
                self.add_netns(action["name"])
            case "sysctls":
                self.sysctls(action["ns"], action["settings"], action.get("optional", False))
            case _:
                argv, stdin = action["argv"], action.get("stdin", "")
                done = self.run(action["ns"], argv, stdin)
                if argv[0].endswith("-nft-restore") and "Message too long" in done.stderr:
                    done = self.restore_in_parts(action["ns"], argv, stdin)
                if done.returncode != 0:
                    raise Refused(_complaint(action, done))

    def restore_in_parts(self, ns: str, argv: list[str], text: str) -> subprocess.CompletedProcess[str]:
        """What netlink takes in one message is bounded by the sender's buffer, and iptables raises that with SO_SNDBUFFORCE alone
        (iptables/nft.c mnl_set_sndbuffer), so not for an ordinary user."""
        first, *others = in_parts(text)
        done = self.run(ns, argv, first)
        for part in others:
            if done.returncode == 0:
                done = self.run(ns, [*argv, "--noflush"], part)
        return done

    # -- the loop ------------------------------------------------------------------------------------------------------

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self.timers, (time.monotonic() + seconds, next(self.count), call))

    def serve(self) -> None:
        """Run until the last control connection ends (or for ever, in the background)."""
        while self.controls or self.stays:
            wait = max(0.0, self.timers[0][0] - time.monotonic()) if self.timers else None
            for key, mask in self.selector.select(wait):
                key.data(mask)
            while self.timers and self.timers[0][0] <= time.monotonic():
                heapq.heappop(self.timers)[2]()

    def watch(self, sock: socket.socket, events: int, call: Callable[[int], None]) -> None:
        self.selector.register(sock, events, call)

    def forget(self, sock: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(sock)
        sock.close()

    # -- sockets that listen -------------------------------------------------------------------------------------------

    def listen(self, listeners: list[Json]) -> list[str]:
        """Open sockets; returns why some could not be opened."""
        problems = []
        for wanted in listeners:
            address = wanted.get("ip") or ""
            families = (socket.AF_INET6 if ":" in address else socket.AF_INET,) if address else (socket.AF_INET, socket.AF_INET6)
            for family in families:
                key = (wanted["ns"], wanted["protocol"], wanted["port"], address, int(family))
                if key in self.listening:
                    continue
                try:
                    with self.inside(wanted["ns"]):
                        sock = _listening_socket(family, wanted["protocol"], address, wanted["port"])
                except OSError as error:
                    problems.append(f"{wanted['ns']}: cannot listen on {wanted['port']}/{wanted['protocol']}: {error.strerror}")
                    continue
                self.listening[key] = wanted["owner"]
                if wanted.get("proxy"):
                    name = (wanted["ns"], wanted["protocol"], wanted["port"])
                    self.portals.setdefault(name, Portal(self, wanted["ns"], wanted["proxy"])).serve(sock, wanted["protocol"])
                elif wanted["protocol"] == UDP:
                    self.watch(sock, selectors.EVENT_READ, self._datagrams(sock, wanted["owner"], wanted["port"]))
                else:
                    self.watch(sock, selectors.EVENT_READ, self._connections(sock, wanted["owner"]))
        return problems

    def _connections(self, listening: socket.socket, owner: str) -> Callable[[int], None]:
        def ready(_: int) -> None:
            while True:
                try:
                    sock, peer = listening.accept()
                except OSError:
                    return
                sock.setblocking(False)
                local = sock.getsockname()
                Conversation(self, sock, {"owner": owner, "peer": _socket(peer), "local": _socket(local)})

        return ready

    def _datagrams(self, sock: socket.socket, owner: str, port: int) -> Callable[[int], None]:
        def ready(_: int) -> None:
            while True:
                try:
                    data, ancillary, _flags, peer = sock.recvmsg(65536, 256)
                except OSError:
                    return
                local, control = _packet_info(ancillary, sock)
                who: Json = {"owner": owner, "peer": _socket(peer), "local": [local, port]}
                token = data[:64].split(b"\n")[0].decode("ascii", "replace")
                self.arrived[token] = who
                with contextlib.suppress(OSError):
                    sock.sendmsg([json.dumps(who).encode() + b"\n"], control, 0, peer)

        return ready

    # -- control -------------------------------------------------------------------------------------------------------

    def control(self, sock: socket.socket) -> None:
        """Serve one client: JSON lines, one answer per request."""
        sock.setblocking(False)
        buffer = bytearray()
        self.controls += 1

        def answer(value: Json) -> None:
            sock.setblocking(True)
            try:
                sock.sendall(json.dumps(value).encode() + b"\n")
            except OSError:
                return
            sock.setblocking(False)

        def ready(_: int) -> None:
            try:
                data = sock.recv(1 << 20)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.controls -= 1
                self.forget(sock)
                return
            buffer.extend(data)
            while (end := buffer.find(b"\n")) >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + 1]
                try:
                    self.request(json.loads(line), answer)
                except Refused as error:
                    answer({"refused": str(error)})
                except Exception as error:
                    answer({"error": f"{type(error).__name__}: {error}"})

        self.watch(sock, selectors.EVENT_READ, ready)

    def request(self, request: Json, answer: Callable[[Json], None]) -> None:
        match request["do"]:
            case "carry out":
                for action in request["actions"]:
                    self.carry_out(action)
                answer({"done": len(request["actions"])})
            case "listen":
                answer({"problems": self.listen(request["listeners"])})
            case "probe":
                self.probe(request["probes"], answer)
            case "finish":
                waiting = [self.held.pop(n) for n in request["held"]]
                self._gather(waiting, answer, lambda probe: probe.talk(request["timeout"]))
            case "run":
                self.start_run(request["ns"], request["argv"], request.get("stdin", ""), answer)
            case "forget":
                for ns in request["spaces"]:
                    with self.inside(ns):
                        _flush_conntrack()
                for portal in self.portals.values():
                    portal.sticky.clear()
                answer({})
            case "watch":
                self.watches.watch(request["spaces"], request["rules"])
                answer({})
            case "seen":  # what is still in a queue of the kernel's gets the time to come out of it
                self.later(request["settle"], lambda: answer({"spaces": self.watches.take()}))
            case "dump":
                answer({"spaces": self.watches.dump(request["spaces"], request["what"])})
            case "pid":  # as the host sees it: /proc is the host's
                answer({"pid": int(os.readlink("/proc/self"))})
            case "stay":
                self.stays = True
                answer({})
            case "end":
                answer({})
                os._exit(0)
            case other:
                raise ValueError(f"unknown request {other!r}")

    def probe(self, wanted: list[Json], answer: Callable[[Json], None]) -> None:
        probes = [Probe(self, spec) for spec in wanted]
        self._gather(probes, answer, lambda probe: probe.start())

    def _gather(self, probes: list[Probe], answer: Callable[[Json], None], begin: Callable[[Probe], None]) -> None:
        """Answer when the last of these probes is done."""
        left = len(probes)
        results: list[Json] = [{}] * left
        if not probes:
            answer({"results": []})
            return

        def done_for(n: int) -> Callable[[Json], None]:
            def done(result: Json) -> None:
                nonlocal left
                results[n] = result
                left -= 1
                if left == 0:
                    answer({"results": results})

            return done

        for n, probe in enumerate(probes):
            probe.done = done_for(n)
            begin(probe)


DIALS = (0.25, 0.5, 1.0, 2.0)  # seconds; pkg/proxy/userspace/proxysocket.go EndpointDialTimeouts
UDP_IDLE = 2.0  # seconds; kube-proxy's --udp-timeout is 0.25, too short for a busy machine


class Portal:
    """kube-proxy's userspace mode for one service port: round robin over endpoints, and both connections tied together."""

    def __init__(self, holder: Holder, ns: str, proxy: Json) -> None:
        self.holder, self.ns = holder, ns
        self.backends: list[list[Any]] = proxy["backends"]
        self.affinity, self.accepts = proxy["affinity"], proxy["accepts"]
        self.sockets: list[socket.socket] = []
        self.turn = 0
        self.sticky: dict[str, tuple[float, list[Any]]] = {}  # client -> when it was last here, its endpoint
        self.clients: dict[Any, socket.socket] = {}  # UDP: client -> the socket that speaks to its endpoint

    def serve(self, sock: socket.socket, protocol: int) -> None:
        self.sockets.append(sock)  # one that is never read must be kept, or Python closes it
        if self.accepts:
            self.holder.watch(sock, selectors.EVENT_READ, self._datagrams(sock) if protocol == UDP else self._connections(sock))

    def next(self, client: str, reset: bool) -> list[Any] | None:
        """roundrobin.go NextEndpoint."""
        if not self.backends:
            return None
        now = time.monotonic()
        if self.affinity is not None and not reset and client in self.sticky:
            last, backend = self.sticky[client]
            if now - last < self.affinity:
                self.sticky[client] = (now, backend)
                return backend
        backend = self.backends[self.turn % len(self.backends)]
        self.turn += 1
        if self.affinity is not None:
            self.sticky[client] = (now, backend)
        return backend

    def dial(self, backend: list[Any], kind: socket.SocketKind) -> tuple[socket.socket, int]:
        with self.holder.inside(self.ns):
            sock = socket.socket(socket.AF_INET6 if ":" in backend[0] else socket.AF_INET, kind)
        sock.setblocking(False)
        return sock, sock.connect_ex((backend[0], backend[1]))

    def _connections(self, listening: socket.socket) -> Callable[[int], None]:
        def ready(_: int) -> None:
            while True:
                try:
                    sock, peer = listening.accept()
                except OSError:
                    return
                sock.setblocking(False)
                Spliced(self, sock, str(peer[0])).dial(0)

        return ready

    def _datagrams(self, listening: socket.socket) -> Callable[[int], None]:
        def ready(_: int) -> None:
            while True:
                try:
                    data, peer = listening.recvfrom(4096)
                except OSError:
                    return
                sock = self.clients.get(peer) or self._client(listening, peer)
                if sock is not None:
                    with contextlib.suppress(OSError):
                        sock.send(data)

        return ready

    def _client(self, listening: socket.socket, peer: Any) -> socket.socket | None:
        for attempt in range(len(DIALS)):
            backend = self.next(peer[0], attempt > 0)
            if backend is None:
                return None
            sock, failed = self.dial(backend, socket.SOCK_DGRAM)
            if not failed:
                self._answers(listening, peer, sock)
                return sock
            sock.close()
        return None

    def _answers(self, listening: socket.socket, peer: Any, sock: socket.socket) -> None:
        """What an endpoint says goes to its client, as long as something is said."""

        def end() -> None:
            if self.clients.get(peer) is sock:
                del self.clients[peer]
                self.holder.forget(sock)

        def ready(_: int) -> None:
            try:
                listening.sendto(sock.recv(4096), peer)  # the kernel chooses the source: Go's WriteTo
            except OSError:
                end()

        self.clients[peer] = sock
        self.holder.watch(sock, selectors.EVENT_READ, ready)
        self.holder.later(UDP_IDLE, end)


class Spliced:
    """An accepted connection and the second one: dialled again while endpoints fail, then copied until one side ends."""

    def __init__(self, portal: Portal, sock: socket.socket, client: str) -> None:
        self.portal, self.holder, self.client = portal, portal.holder, client
        self.sock, self.second = sock, sock
        self.attempt = -1

    def dial(self, attempt: int) -> None:
        self.attempt = attempt
        backend = self.portal.next(self.client, attempt > 0) if attempt < len(DIALS) else None
        if backend is None:
            self.sock.close()
            return
        self.second, failed = self.portal.dial(backend, socket.SOCK_STREAM)
        if failed not in (0, errno.EINPROGRESS):
            self.second.close()
            self.dial(attempt + 1)
            return
        self.holder.watch(self.second, selectors.EVENT_WRITE, self._dialled)
        self.holder.later(DIALS[attempt], lambda: self._again(attempt))

    def _again(self, attempt: int) -> None:
        if self.attempt == attempt:
            self.holder.forget(self.second)
            self.dial(attempt + 1)

    def _dialled(self, _: int) -> None:
        if self.second.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._again(self.attempt)
            return
        self.attempt = -1
        self.holder.selector.unregister(self.second)
        for source, target in ((self.sock, self.second), (self.second, self.sock)):
            self.holder.watch(source, selectors.EVENT_READ, self._copy(source, target))

    def _copy(self, source: socket.socket, target: socket.socket) -> Callable[[int], None]:
        def ready(_: int) -> None:
            data = b""
            try:
                data = source.recv(65536)
                target.setblocking(True)
                target.sendall(data)
                target.setblocking(False)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.holder.forget(source)
                self.holder.forget(target)

        return ready


class Conversation:
    """An accepted connection: whatever the client says first, it is told who it reached; HTTP is answered as HTTP."""

    def __init__(self, holder: Holder, sock: socket.socket, who: Json) -> None:
        self.holder, self.sock, self.who = holder, sock, who
        self.heard = b""
        holder.watch(sock, selectors.EVENT_READ, self.ready)

    def ready(self, _: int) -> None:
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            self.holder.forget(self.sock)
            return
        self.heard += data
        http = self.heard.split(b" ", 1)[0] in (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH")
        whole = b"\r\n\r\n" in self.heard if http else b"\n" in self.heard
        if data and not whole:
            return
        body = json.dumps(self.who).encode() + b"\n"
        if http:
            head = f"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            body = head.encode() + (b"" if self.heard.startswith(b"HEAD") else body)
        if self.heard or not data:
            with contextlib.suppress(OSError):
                self.sock.send(body)
        self.holder.forget(self.sock)


class Probe:
    """One real connection, datagram or ping, and what came of it.

    Result kinds: "delivered" (an answer came back: who, local, peer as the receiver saw them), "connected" (held open after the
    handshake), "error" (errno, and the ICMP error where there was one), "timeout", "unsupported".
    """

    def __init__(self, holder: Holder, spec: Json) -> None:
        self.holder, self.spec = holder, spec
        self.done: Callable[[Json], None] = lambda result: None
        self.sock: socket.socket | None = None
        self.state = ""
        self.token = f"netlab-{spec['id']}"
        self.deadline = 0
        self.source: list[Any] = []
        self.heard = b""
        self.told = ""

    def start(self) -> None:
        spec = self.spec
        v6 = ":" in spec["dst"]
        family = socket.AF_INET6 if v6 else socket.AF_INET
        protocol = spec["protocol"]
        kind = socket.SOCK_STREAM if protocol in (TCP, SCTP) else socket.SOCK_DGRAM
        try:
            with self.holder.inside(spec["ns"]):
                self.sock = socket.socket(family, kind, protocol)
        except OSError as error:
            if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
                self.done({"result": "unsupported"})
            else:
                self.done(self._error(error.errno or 0))
            return
        sock = self.sock
        sock.setblocking(False)
        level = socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP
        try:
            sock.setsockopt(level, IPV6_RECVERR if v6 else IP_RECVERR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if protocol == TCP:  # a reset at the end leaves no TIME_WAIT
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if protocol == SCTP and not spec.get("hold"):  # an ICMP error that meets connect() is lost (sctp/input.c)
                sock.setsockopt(SCTP, SCTP_RTOINFO, struct.pack("=iIII", 0, INIT_AGAIN, 60_000, INIT_AGAIN))
            source = spec.get("src") or (self._source(family) if protocol == SCTP else "")
            sock.bind((source, spec["sport"]))
            self._within(spec["timeout"])
            self.state = "connecting"
            result = sock.connect_ex((spec["dst"], spec["dport"]))
            if result not in (0, errno.EINPROGRESS):
                self._end(self._error(result))
                return
            self.source = list(sock.getsockname()[:2])
            if protocol in (TCP, SCTP):
                self.holder.watch(sock, selectors.EVENT_WRITE, self._ready)
            else:
                self._say()
        except OSError as error:
            self._end(self._error(error.errno or 0))

    def _source(self, family: int) -> str:
        """The address that the kernel would choose. An SCTP socket without one offers all that the host has (RFC 9260, 5.1.2),
        and is asked at each of them whether it is there: packets that no walk speaks of."""
        with self.holder.inside(self.spec["ns"]), socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect((self.spec["dst"], self.spec["dport"]))
            return str(asking.getsockname()[0])

    def _within(self, seconds: float) -> None:
        self.deadline += 1
        mine = self.deadline

        def late() -> None:
            if self.deadline == mine and self.state != "ended":
                result: Json = {"result": "timeout", "source": self.source, "errno": self.told}
                if self.token in self.holder.arrived:
                    result["arrived"] = self.holder.arrived[self.token]
                self._end(result)

        self.holder.later(seconds, late)

    def _say(self) -> None:
        """Send the request and wait for the answer."""
        assert self.sock is not None
        self.state = "waiting"
        protocol = self.spec["protocol"]
        payload = (self.token + "\n").encode()
        if protocol in (ICMP, ICMPV6):
            payload = bytes((8 if protocol == ICMP else 128, 0, 0, 0, 0, 0, 0, 1)) + payload
        size = self.spec.get("size")
        if size:
            v6 = self.sock.family == socket.AF_INET6
            payload = payload.ljust(size - (40 if v6 else 20) - (8 if protocol == UDP else 0), b".")
            if v6:  # never fragment, like DF
                self.sock.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, 1)
                self.sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, 2)
            else:
                self.sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, 2)  # IP_PMTUDISC_DO
        try:
            self.sock.send(payload)
        except OSError as error:
            if error.errno not in DROPPED_HERE:
                raise
            self.told = errno.errorcode[error.errno]  # and an ICMP error may still come
        self.holder.watch(self.sock, selectors.EVENT_READ, self._ready)

    def talk(self, timeout: float) -> None:
        """Go on with a connection that was held."""
        self._within(timeout)
        try:
            self._say()
        except OSError as error:
            self._end(self._error(error.errno or 0))

    def _ready(self, _: int) -> None:
        assert self.sock is not None
        failed = self._queued_error()
        if failed is not None:
            self._end(failed)
            return
        number = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._end(self._error(number))
            return
        if self.state == "connecting":
            self.source = list(self.sock.getsockname()[:2])
            self.holder.selector.unregister(self.sock)
            if self.spec.get("hold"):
                self.deadline += 1
                self.state = "held"
                self.holder.held[self.spec["id"]] = self
                self.done({"result": "connected", "source": self.source})
                return
            try:
                self._say()
            except OSError as error:
                self._end(self._error(error.errno or 0))
            return
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(self._error(error.errno or 0))
            return
        if self.spec["protocol"] in (ICMP, ICMPV6):
            self._end({"result": "delivered", "source": self.source})
            return
        self.heard += data
        if b"\n" in self.heard:
            self._end({"result": "delivered", "source": self.source, **json.loads(self.heard)})
        elif not data:
            self._end({"result": "error", "errno": "EOF", "source": self.source})

    def _queued_error(self) -> Json | None:
        """The first entry of the error queue (struct sock_extended_err, <linux/errqueue.h>); redirects are no errors."""
        assert self.sock is not None
        while True:
            try:
                _, ancillary, _, _ = self.sock.recvmsg(2048, 512, MSG_ERRQUEUE)
            except OSError:
                return None
            found = self._extended(ancillary)
            if found is not None and found.get("icmp", [0])[0] not in REDIRECTS:
                return found

    def _extended(self, ancillary: list[tuple[int, int, bytes]]) -> Json | None:
        for _, kind, data in ancillary:
            if kind in (IP_RECVERR, IPV6_RECVERR) and len(data) >= 16:
                number, origin, icmp_type, code = struct.unpack_from("=IBBB", data)
                found = self._error(number)
                found["origin"] = ORIGINS.get(origin, str(origin))
                if origin in (2, 3):
                    found["icmp"] = [icmp_type, code]
                    found["from"] = _offender(data[16:])
                return found
        return None

    def _error(self, number: int) -> Json:
        return {"result": "error", "errno": errno.errorcode.get(number, str(number)), "source": self.source}

    def _end(self, result: Json) -> None:
        if self.state == "ended":
            return
        self.state = "ended"
        if self.sock is not None:
            self.holder.forget(self.sock)
        self.done(result)


def _watches(holder: Holder) -> Watches:
    """watching.py, found beside this file: there is no package where this runs."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "watching.py")
    spec = importlib.util.spec_from_file_location("watching", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Watches = module.Watches(holder.inside)
    return made


def _flush_conntrack() -> None:
    """What `conntrack -F` does: IPCTNL_MSG_CT_DELETE of everything (nfnetlink_conntrack.c ctnetlink_del_conntrack)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:  # NETLINK_NETFILTER
        sock.bind((0, 0))
        sock.send(struct.pack("=IHHII", 20, 1 << 8 | 2, 5, 1, 0) + b"\0\0\0\0")  # NLM_F_REQUEST | NLM_F_ACK
        number = struct.unpack_from("=i", sock.recv(4096), 16)[0]
        if number:
            raise OSError(-number, "conntrack flush: " + os.strerror(-number))


def _listening_socket(family: int, protocol: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM if protocol == UDP else socket.SOCK_STREAM, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol == UDP:  # the answer leaves from the address that was asked
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.bind((address, port))
        if protocol != UDP:
            sock.listen(1024)
    except OSError:
        sock.close()
        raise
    return sock


def _packet_info(ancillary: list[tuple[int, int, bytes]], sock: socket.socket) -> tuple[str, list[tuple[int, int, bytes]]]:
    """The address that a datagram was sent to, and the ancillary data that makes the answer leave from it."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            _, _, address = struct.unpack("=i4s4s", data[:12])
            return socket.inet_ntoa(address), [(level, kind, struct.pack("=i4s4s", 0, address, b"\0\0\0\0"))]
        if (level, kind) == (socket.IPPROTO_IPV6, IPV6_PKTINFO):
            address = data[:16]
            return socket.inet_ntop(socket.AF_INET6, address), [(level, kind, struct.pack("=16si", address, 0))]
    return str(sock.getsockname()[0]), []


def _socket(address: Any) -> list[Any]:
    return [str(address[0]).split("%")[0], address[1]]


def _offender(data: bytes) -> str:
    """The sockaddr behind a sock_extended_err: who sent the ICMP error."""
    if len(data) < 8:
        return ""
    family = struct.unpack_from("=H", data)[0]
    if family == socket.AF_INET:
        return socket.inet_ntoa(data[4:8])
    if family == socket.AF_INET6 and len(data) >= 24:
        return socket.inet_ntop(socket.AF_INET6, data[8:24])
    return ""


def in_parts(text: str, size: int = 200) -> list[str]:
    """iptables-save text in pieces: all chains first, then `size` rules at a time; the pieces after the first are to be added."""
    chains, pieces = [], []
    for table in text.split("COMMIT\n"):
        lines = [line for line in table.splitlines() if line and not line.startswith("#")]
        rules = [line for line in lines if not line.startswith(("*", ":"))]
        if lines:
            chains.append("\n".join(line for line in lines if line.startswith(("*", ":"))) + "\nCOMMIT\n")
        for start in range(0, len(rules), size):
            pieces.append("\n".join([lines[0], *rules[start : start + size], "COMMIT\n"]))
    return ["".join(chains), *pieces]


def _complaint(action: Json, done: subprocess.CompletedProcess[str]) -> str:
    """What a tool said, with the line of its input that it spoke of."""
    text = " ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
    where = action["ns"] or "the lab"
    lines = action.get("stdin", "").splitlines()
    _, found, number = text.rpartition("Command failed -:")
    line = ""
    if found and number.isdigit() and int(number) <= len(lines):
        line = f": {action['argv'][0]} {lines[int(number) - 1]}"
        text = text[: text.rindex("Command failed")].strip()
    return f"{where}: {action['argv'][0]} failed{line}: {text or 'status ' + str(done.returncode)}"


def main(argv: list[str]) -> int:
    """`holder FD [SOCKET]`: FD is one end of a socket pair; SOCKET a path to listen on for the time after the start."""
    first = socket.socket(fileno=int(argv[0]))
    holder = Holder()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command at the terminal
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # pid 1 of its namespace: has no default action
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    if len(argv) > 1:
        # bound before /run is covered, and by its relative name: the path may be longer than a socket address
        os.chdir(os.path.dirname(argv[1]))
        doors = socket.socket(socket.AF_UNIX)
        doors.bind(os.path.basename(argv[1]))
        doors.listen(16)
        os.chdir("/")

        def knock(_: int) -> None:
            holder.control(doors.accept()[0])

        holder.watch(doors, selectors.EVENT_READ, knock)
    # xtables.lock and /run/netns: a private /run, so that nothing of the host is touched
    _check(LIBC.mount(b"tmpfs", b"/run", b"tmpfs", 0, None), "mount tmpfs on /run")
    os.mkdir(NETNS_DIR)
    holder.control(first)
    holder.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
