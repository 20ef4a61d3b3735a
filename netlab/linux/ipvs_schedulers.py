"""IPVS's schedulers: which real server a new connection gets (net/netfilter/ipvs/ip_vs_rr.c and its siblings).

    hash (dh, sh, mh)              the very server: no scheduler has a secret of its own or of the boot
    best weight (fo, ovf)          the very server, as long as none is overloaded
    state (rr, wrr, lc, wlc, ...)  every server that may be next, with its share

Law: the arithmetic is the kernel's, bit for bit, on a 64-bit machine (32-bit ones hash otherwise for mh). The kernel puts a new
real server before the older ones (ip_vs_ctl.c __ip_vs_update_dest), so its list is `VirtualService.servers` from behind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import msgspec

from netlab.linux.addr import Ip
from netlab.linux.ipvs import RealServer, VirtualService
from netlab.linux.packet import UDP

HASHING = frozenset({"dh", "sh", "mh"})  # schedulers that look at the packet
_M32, _M64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_GOLDEN = 0x61C88647  # include/linux/hash.h GOLDEN_RATIO_32
_TABLE_BITS = 8  # CONFIG_IP_VS_{DH,SH}_TAB_BITS: buckets of dh and sh
_MH_TABLE, _MH_BITS = 4093, 6  # CONFIG_IP_VS_MH_TAB_INDEX 12: primes[12 - 8], 12 / 2
_MH_KEY, _MH_SKIP_KEY = 2654435761, 2654446892  # ip_vs_mh.c generate_hash_secret: constants


class Scheduled(msgspec.Struct, frozen=True):
    """What a scheduler says of one packet.

    `shares` pairs each server that may be chosen with its probability (adding up to 1; empty: no server, ip_vs_leave). `why`
    says in a few words how it chooses; `assumes` what was taken for granted ("": nothing); `unknown` names what is not modelled.
    """

    shares: tuple[tuple[RealServer, Fraction], ...] = ()
    why: str = ""
    assumes: str = ""
    unknown: str = ""


class Asked(msgspec.Struct, frozen=True):
    """What schedulers look at: the packet's addresses, and its source port (None where NAT drew one that nobody knows)."""

    src: Ip
    dst: Ip
    sport: int | None = 0


def schedule(service: VirtualService, asked: Asked, cache: dict[object, object] | None = None) -> Scheduled:
    """The servers that a new connection of a virtual service may get.

    Parameters
    ----------
    service : VirtualService
        Its `servers` in the order in which they were added.
    asked : Asked
        The packet.
    cache : dict, optional
        Where lookup tables are kept between calls.

    Returns
    -------
    Scheduled

    Examples
    --------
    >>> from netlab.linux.addr import ip
    >>> servers = tuple(RealServer(ip(f"10.1.0.{n}"), 80) for n in (2, 3))
    >>> found = schedule(VirtualService(6, ip("10.0.0.1"), 80, "sh", servers), Asked(ip("10.2.0.7"), ip("10.0.0.1")))
    >>> [(str(server.ip), str(share)) for server, share in found.shares]
    [('10.1.0.2', '1')]
    """
    how = _SCHEDULERS.get(service.scheduler)
    if how is None:
        return Scheduled(unknown=f"IPVS scheduler {service.scheduler}")
    found = how(service, service.servers[::-1], asked, {} if cache is None else cache)
    if any(server.upper for server in service.servers):
        full = "no real server with an upper threshold (-x) has reached it"
        found = msgspec.structs.replace(found, assumes=f"{found.assumes}; {full}" if found.assumes else full)
    return found


_Cache = dict[object, object]
_Scheduler = Callable[[VirtualService, Sequence[RealServer], Asked, _Cache], Scheduled]


def _one(server: RealServer | None, why: str, assumes: str = "") -> Scheduled:
    """The very server, or none where it takes no new connections (is_unavailable: weight 0)."""
    if server is None or server.weight <= 0:
        return Scheduled(why=why, assumes=assumes)
    return Scheduled(((server, Fraction(1)),), why, assumes)


def _shared(servers: Sequence[RealServer], why: str, assumes: str, weighted: bool) -> Scheduled:
    """Every server that takes connections, in the order in which they were added; alike, or by weight."""
    able = [server for server in reversed(servers) if server.weight > 0]
    total = sum(server.weight if weighted else 1 for server in able)
    shares = tuple((server, Fraction(server.weight if weighted else 1, total)) for server in able)
    return Scheduled(shares, why, assumes if len(able) > 1 else "")


# -- what depends on the connections before -----------------------------------------------------------------------------


def _rr(service: VirtualService, servers: Sequence[RealServer], asked: Asked, cache: _Cache) -> Scheduled:
    """ip_vs_rr.c: the next in turn; on an empty table the first of the kernel's list, which is the last added."""
    return _shared(servers, "round robin", "whose turn it is is not known: each real server is as likely", False)


def _wrr(service: VirtualService, servers: Sequence[RealServer], asked: Asked, cache: _Cache) -> Scheduled:
    """ip_vs_wrr.c: one lap of sum(weights) / gcd turns, each server as often as its weight says."""
    return _shared(servers, "weighted round robin", "whose turn it is is not known: each real server as its weight says", True)


def _least(kind: str, weighted: bool, first: Callable[[Sequence[RealServer]], RealServer | None]) -> _Scheduler:
    """The least-connection family: the counts are not known. With many equally long connections the shares are those of the
    weights (lc: equal); the first connection of all gets `first`."""

    def how(service: VirtualService, servers: Sequence[RealServer], asked: Asked, cache: _Cache) -> Scheduled:
        begin = first(servers)
        empty = f"; on an empty table the first is {begin.ip.port(begin.port)}" if begin is not None else ""
        what = "as its weight says" if weighted else "as likely"
        counts = "how many connections each real server has is not known"
        assumes = f"{counts}: each {what}, as with many that last equally long{empty}"
        return _shared(servers, kind, assumes, weighted)

    return how


def _first_able(servers: Sequence[RealServer]) -> RealServer | None:
    return next((server for server in servers if server.weight > 0), None)


def _heaviest(servers: Sequence[RealServer]) -> RealServer | None:
    """The first of the greatest weight: max() keeps the first among equals."""
    return max((server for server in servers if server.weight > 0), key=lambda server: server.weight, default=None)


def _active(kind: str, first: Callable[[Sequence[RealServer]], RealServer | None]) -> _Scheduler:
    """ip_vs_sed.c, ip_vs_nq.c: only active connections count, and those of UDP never are: the first choice stays the choice."""
    least = _least(kind, True, first)

    def how(service: VirtualService, servers: Sequence[RealServer], asked: Asked, cache: _Cache) -> Scheduled:
        if service.protocol == UDP:
            return _one(first(servers), f"{kind}; UDP has no active connections")
        return least(service, servers, asked, cache)

    return how


def _bound(service: VirtualService, servers: Sequence[RealServer], asked: Asked, cache: _Cache) -> Scheduled:
    """ip_vs_lblc.c, ip_vs_lblcr.c: the destination address stays with one server (lblcr: a set) until that is overloaded."""
    begin = _first_able(servers)
    empty = f"; on an empty table it is {begin.ip.port(begin.port)}" if begin is not None else ""
    assumes = f"which real server {asked.dst} is bound to is not known: each is as likely{empty}"
    return _shared(servers, "locality-based least connection", assumes, False)


# -- the greatest weight -------------------------------------------------------------------------------------------------


def _fo(service: VirtualService, servers: Sequence[RealServer], asked: Asked, cache: _Cache) -> Scheduled:
    """ip_vs_fo.c: the greatest weight."""
    return _one(_heaviest(servers), "the greatest weight")


def _ovf(service: VirtualService, servers: Sequence[RealServer], asked: Asked, cache: _Cache) -> Scheduled:
    """ip_vs_ovf.c: the greatest weight among those that have no more active connections than that."""
    best = _heaviest(servers)
    more = len([server for server in servers if server.weight > 0]) > 1
    assumes = f"{best.ip.port(best.port)} has no more than {best.weight} active connections" if best is not None and more else ""
    return _one(best, "the greatest weight that does not overflow", assumes)


# -- hashes --------------------------------------------------------------------------------------------------------------


def _fold(address: Ip) -> int:
    """The 32 bits of an address that are hashed: of IPv6, the four words combined by exclusive or."""
    value = address.value
    if address.family == 4:
        return value
    return (value >> 96 ^ value >> 64 ^ value >> 32 ^ value) & _M32


def _hash32(value: int, bits: int) -> int:
    """include/linux/hash.h hash_32."""
    return ((value & _M32) * _GOLDEN & _M32) >> (32 - bits)


def _order(servers: Sequence[RealServer]) -> str:
    return "real servers were added in the order listed (ipvsadm sorts what it prints)" if len(servers) > 1 else ""


def _dh(service: VirtualService, servers: Sequence[RealServer], asked: Asked, cache: _Cache) -> Scheduled:
    """ip_vs_dh.c: buckets are dealt out to the servers in turn, whatever their weight."""
    why = f"hash of the destination address {asked.dst}"
    if not servers:
        return Scheduled(why=why)
    return _one(servers[_hash32(_fold(asked.dst), _TABLE_BITS) % len(servers)], why, _order(servers))


def _sh(service: VirtualService, servers: Sequence[RealServer], asked: Asked, cache: _Cache) -> Scheduled:
    """ip_vs_sh.c: buckets are dealt out in turn, to each server as many as its weight; flags sh-port, sh-fallback."""
    port = asked.sport if "sh-port" in service.flags else 0
    why = f"hash of the source {_source(asked, 'sh-port' in service.flags)}"
    if not servers:
        return Scheduled(why=why)
    buckets: list[RealServer] = []
    while len(buckets) < 1 << _TABLE_BITS:
        for server in servers:
            buckets += [server] * max(server.weight, 1)
    if port is None:
        return _any(buckets[: 1 << _TABLE_BITS], why)

    def key(offset: int) -> int:
        return (offset + _hash32(port + _fold(asked.src), _TABLE_BITS)) % (1 << _TABLE_BITS)

    return _look_up(buckets, 1 << _TABLE_BITS, key, "sh-fallback" in service.flags, why, _order(servers))


def _mh(service: VirtualService, servers: Sequence[RealServer], asked: Asked, cache: _Cache) -> Scheduled:
    """ip_vs_mh.c: Maglev's table; flags mh-port, mh-fallback."""
    port = asked.sport if "mh-port" in service.flags else 0
    why = f"Maglev hash of the source {_source(asked, 'mh-port' in service.flags)}"
    known = cache.get(service.servers)
    if known is None:
        known = cache[service.servers] = _maglev(servers)
    assert isinstance(known, list)
    assumes = _order(servers)
    if any(server.weight == 0 for server in servers):
        assumes += "; those of weight 0 never had another"  # dest->last_weight keeps their places in the table
    if port is None:
        return _any(known, why)

    def key(offset: int) -> int:
        return _mh_hash(asked.src, port, _MH_KEY, offset) % _MH_TABLE

    return _look_up(known, _MH_TABLE, key, "mh-fallback" in service.flags, why, assumes)


def _source(asked: Asked, with_port: bool) -> str:
    if not with_port:
        return str(asked.src)
    return asked.src.port(asked.sport) if asked.sport is not None else f"{asked.src} and the port that NAT drew"


def _any(table: Sequence[RealServer | None], why: str) -> Scheduled:
    """The port is one of many: each bucket is as likely."""
    counted = Counter(server for server in table if server is not None)
    if any(server.weight == 0 for server in counted):
        return Scheduled(unknown=f"{why}, where a real server has weight 0")
    shares = tuple((server, Fraction(count, len(table))) for server, count in counted.items())
    return Scheduled(shares, why, "a port that NAT draws falls into each bucket of the hash table alike")


def _look_up(
    table: Sequence[RealServer | None], size: int, key: Callable[[int], int], fallback: bool, why: str, assumes: str
) -> Scheduled:
    """ip_vs_sh_get_fallback, ip_vs_mh_get_fallback: the bucket; with fallback, others where its server takes no connections.

    The kernel adds the first bucket's number to the offsets that it tries; that is how it goes round the table.
    """
    first = key(0) if table else 0
    server = table[first] if table else None
    if server is None or server.weight > 0 or not fallback:
        return _one(server, why, assumes)
    for offset in range(size):
        server = table[key((offset + first) % size)]
        if server is None or server.weight > 0:
            return _one(server, f"{why}, fallback", assumes)
    return Scheduled(why=why, assumes=assumes)


def _maglev(servers: Sequence[RealServer]) -> list[RealServer | None]:
    """ip_vs_mh.c ip_vs_mh_permutate, ip_vs_mh_populate."""
    weights = [server.weight for server in servers if server.weight > 0]
    if not weights:
        return []
    gcd = math.gcd(*weights)
    shift = max((max(weights) // gcd).bit_length() - _MH_BITS, 0)
    table: list[RealServer | None] = [None] * _MH_TABLE
    places = [_mh_hash(server.ip, server.port, _MH_KEY, 0) % _MH_TABLE for server in servers]
    skips = [_mh_hash(server.ip, server.port, _MH_SKIP_KEY, 0) % (_MH_TABLE - 1) + 1 for server in servers]
    turns = [(server.weight // gcd >> shift) or int(server.weight > 0) for server in servers]
    filled = 0
    while True:
        for n, server in enumerate(servers):
            for _ in range(turns[n]):
                while table[places[n]] is not None:
                    places[n] = (places[n] + skips[n]) % _MH_TABLE
                table[places[n]] = server
                filled += 1
                if filled == _MH_TABLE:
                    return table


def _mh_hash(address: Ip, port: int, key: int, offset: int) -> int:
    """ip_vs_mh_hashkey."""
    return _siphash13((offset + port + _fold(address)) & _M32, key)


def _siphash13(word: int, key: int) -> int:
    """lib/siphash.c hsiphash_1u32 on a 64-bit machine, both halves of the key being `key`: SipHash-1-3, its low half."""
    v0, v1 = 0x736F6D6570736575 ^ key, 0x646F72616E646F6D ^ key
    v2, v3 = 0x6C7967656E657261 ^ key, 0x7465646279746573 ^ key
    message = 4 << 56 | word
    v3 ^= message
    v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    v0 ^= message
    v2 ^= 0xFF
    for _ in range(3):
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    return (v0 ^ v1 ^ v2 ^ v3) & _M32


def _sip_round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = v0 + v1 & _M64
    v1 = _rotate(v1, 13) ^ v0
    v0 = _rotate(v0, 32)
    v2 = v2 + v3 & _M64
    v3 = _rotate(v3, 16) ^ v2
    v0 = v0 + v3 & _M64
    v3 = _rotate(v3, 21) ^ v0
    v2 = v2 + v1 & _M64
    v1 = _rotate(v1, 17) ^ v2
    return v0, v1, _rotate(v2, 32), v3


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _M64


_SCHEDULERS: Mapping[str, _Scheduler] = {
    "rr": _rr,
    "wrr": _wrr,
    "lc": _least("least connections", False, _first_able),
    "wlc": _least("weighted least connections", True, _first_able),
    "sed": _active("shortest expected delay", _heaviest),
    "nq": _active("never queue", _first_able),
    "lblc": _bound,
    "lblcr": _bound,
    "dh": _dh,
    "sh": _sh,
    "fo": _fo,
    "ovf": _ovf,
    "mh": _mh,
}
