"""ipvsadm text: `ipvsadm -S -n` (what `ipvsadm -R` reads) and `ipvsadm -ln`, read into virtual services and written.

Law: parse(write_save(services)) == services, and write_save(parse(text)) is what ipvsadm 1.31 prints after `ipvsadm -R` has
loaded the text, thresholds apart: ipvsadm saves none, write_save does. `-ln` says nothing of thresholds and kinds of tunnel.
Names in place of numbers, an unknown scheduler and lines that were cut off are an InputError with file and line. Sources:
ipvsadm(8), and what ipvsadm 1.31 was seen to do (tests/kernel/test_ipvsadm.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NoReturn

import msgspec

from netlab.errors import InputError, did_you_mean
from netlab.linux.addr import Ip, ip, mask_of
from netlab.linux.ipvs import SCHEDULERS, Method, RealServer, VirtualService
from netlab.refs import Ref

DEFAULT_TIMEOUT: Final = 360  # of -p without a value (ipvsadm(8))
MAX_TIMEOUT: Final = 31 * 24 * 60 * 60
MAX_WEIGHT: Final = 0x7FFFFFFF

_PROTOCOLS: Final = {"-t": 6, "-u": 17, "--sctp-service": 132}
_SERVICE_OPTIONS: Final = {number: option for option, number in _PROTOCOLS.items()}
_NAMES: Final = {"TCP": 6, "UDP": 17, "SCTP": 132}
_LONG: Final = {
    "--add-service": "-A", "--add-server": "-a", "--tcp-service": "-t", "--udp-service": "-u", "--fwmark-service": "-f",
    "--ipv6": "-6", "--scheduler": "-s", "--persistent": "-p", "--netmask": "-M", "--ops": "-o", "--sched-flags": "-b",
    "--real-server": "-r", "--gatewaying": "-g", "--ipip": "-i", "--masquerading": "-m", "--weight": "-w",
    "--u-threshold": "-x", "--l-threshold": "-y",
}  # fmt: skip
_OF_BOTH: Final = frozenset({"-t", "-u", "-f", "-6", "--sctp-service"})
_OF_SERVICE: Final = _OF_BOTH | {"-s", "-p", "-M", "--pe", "-o", "-b"}
_OF_SERVER: Final = _OF_BOTH | {
    "-r", "-g", "-i", "-m", "-w", "-x", "-y", "--tun-type", "--tun-port", "--tun-nocsum", "--tun-csum", "--tun-remcsum",
}  # fmt: skip
_FLAGS: Final = frozenset({"-6", "-o", "-g", "-i", "-m", "--tun-nocsum", "--tun-csum", "--tun-remcsum"})
_METHODS: Final = {method.value: method for method in Method}
_FORWARDS: Final = {"Masq": Method.MASQUERADE, "Tunnel": Method.TUNNEL, "Route": Method.ROUTE, "Local": Method.ROUTE}
_FORWARD: Final = {Method.MASQUERADE: "Masq", Method.TUNNEL: "Tunnel", Method.ROUTE: "Route"}
_SUMS: Final = ("--tun-nocsum", "--tun-csum", "--tun-remcsum")

# The flags of a scheduler as ipvsadm prints them; it takes flag-1 and so on for any (print_sched_flags).
_SCHEDULER_FLAGS: Final = {"sh": ("sh-fallback", "sh-port"), "mh": ("mh-fallback", "mh-port")}
_ANY_FLAGS: Final = ("flag-1", "flag-2", "flag-3")

_NUMERIC: Final = "write it with numbers: ipvsadm -S -n, or ipvsadm -ln"
_CUT: Final = "was the text cut off? write it again: ipvsadm -S -n"
_TITLE: Final = "Prot LocalAddress:Port Scheduler Flags"
_COLUMNS: Final = "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn"

_Key = tuple[int, int, int, Ip | None, int]  # family, protocol, fwmark, address, port


def parse(text: str, file: str = "-") -> tuple[VirtualService, ...]:
    """Read `ipvsadm -S -n` or `ipvsadm -ln`; which of the two it is, the text tells.

    Parameters
    ----------
    text : str
        Blank lines and # comments are accepted; an empty text has no services.
    file : str
        The name for error messages.

    Returns
    -------
    tuple of VirtualService
        In the order of the text, as are the real servers of each.

    Raises
    ------
    InputError
        Names in place of numbers, an unknown scheduler or option, a real server without its service or twice, a line that
        is not complete.

    Examples
    --------
    >>> service, = parse("-A -t 10.96.0.1:443 -s rr\\n-a -t 10.96.0.1:443 -r 192.0.2.1:6443 -m -w 1\\n")
    >>> service.scheduler, str(service.servers[0].ip), service.servers[0].method.name
    ('rr', '192.0.2.1', 'MASQUERADE')
    """
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip() and line.lstrip()[0] != "#"]
    if lines and re.match(r"IP Virtual Server|Prot |(TCP|UDP|SCTP|FWM) ", lines[0][1]):
        return _parse_list(lines, file)
    made = _Made()
    for number, line in lines:
        _save_line(made, line.split(), Ref(file, number))
    return made.result()


def write_save(services: Iterable[VirtualService]) -> str:
    """What `ipvsadm -S -n` prints for these services, in their order; thresholds besides, which only ipvsadm -R reads.

    >>> print(write_save([VirtualService(17, ip("10.96.0.10"), 53, "rr", (), timeout=10800)]), end="")
    -A -u 10.96.0.10:53 -s rr -p 10800
    """
    lines = []
    for s in services:
        name = _service_option(s)
        words = [f"-A {name} -s {s.scheduler}"]
        if s.timeout is not None:
            words.append(f"-p {s.timeout}")
            if s.netmask is not None:
                words.append(f"-M {_mask_text(s.family, s.netmask)}")
        if s.engine:
            words.append(f"--pe {s.engine}")
        if s.one_packet:
            words.append("-o")
        if s.flags:
            words.append(f"-b {','.join(s.flags)}")
        lines.append(" ".join(words))
        for r in s.servers:
            line = f"-a {name} -r {r.ip.port(r.port)} {r.method.value} -w {r.weight}"
            if r.method is Method.TUNNEL:
                line += f" {r.tunnel or '--tun-type ipip'}"
            if r.upper:
                line += f" -x {r.upper}"
            if r.lower:
                line += f" -y {r.lower}"
            lines.append(line)
    return "".join([f"{line}\n" for line in lines])


def write_list(services: Iterable[VirtualService]) -> str:
    """What `ipvsadm -ln` prints while no connection is open.

    >>> print(write_list([VirtualService(6, ip("10.96.0.1"), 443, "rr")]).splitlines()[-1])
    TCP  10.96.0.1:443 rr
    """
    lines = ["IP Virtual Server version 1.2.1 (size=4096)", _TITLE, _COLUMNS]
    names = {number: name for name, number in _NAMES.items()}
    for s in services:
        if s.protocol:
            assert s.ip is not None
            words = [f"{names[s.protocol]:<4} {s.ip.port(s.port)} {s.scheduler}"]
        else:
            words = [f"FWM  {s.fwmark}{' IPv6' if s.family == 6 else ''} {s.scheduler}"]
        if s.flags:
            words.append(f"({','.join(s.flags)})")
        if s.timeout is not None:
            words.append(f"persistent {s.timeout}")
            if s.netmask is not None:
                words.append(f"mask {_mask_text(s.family, s.netmask)}")
            if s.engine:
                words.append(f"pe {s.engine}")
        if s.one_packet:
            words.append("ops")
        lines.append(" ".join(words))
        for r in s.servers:
            lines.append(f"  -> {r.ip.port(r.port):<28} {_FORWARD[r.method]:<7} {r.weight:<6} {0:<10} {0:<10}")
    return "".join([f"{line}\n" for line in lines])


def sort_key(service: VirtualService) -> tuple[object, ...]:
    """The order in which ipvsadm lists services (libipvs.c, ipvs_cmp_services).

    It subtracts addresses as signed 32-bit numbers: 192.0.2.1 comes before 10.0.0.1. Where such a difference overflows,
    ipvsadm's order is no order at all; this one is.
    """
    return service.fwmark, service.family, service.protocol, _signed(service.ip), service.port


def _signed(address: Ip | None) -> tuple[int, ...]:
    if address is None:
        return ()
    if address.family == 4:
        return (address.value - (1 << 32) if address.value >> 31 else address.value,)
    words = [address.value >> shift & 0xFFFFFFFF for shift in (96, 64, 32, 0)]
    return tuple([word - (1 << 32) if word >> 31 else word for word in words])


def _service_option(s: VirtualService) -> str:
    if not s.protocol:
        return f"-f {s.fwmark}{' -6' if s.family == 6 else ''}"
    assert s.ip is not None
    return f"{_SERVICE_OPTIONS[s.protocol]} {s.ip.port(s.port)}"


def _mask_text(family: int, bits: int) -> str:
    return str(Ip(4, mask_of(4, bits))) if family == 4 else str(bits)


# --- reading ----------------------------------------------------------------------------------------------------------


class _Made:
    """The services read so far by what identifies them, and the real servers of each."""

    def __init__(self) -> None:
        self.services: dict[_Key, VirtualService] = {}
        self.servers: dict[_Key, dict[tuple[Ip, int], RealServer]] = {}

    def add_service(self, s: VirtualService, ref: Ref) -> None:
        key = _key(s)
        if key in self.services:
            raise InputError("the virtual service is there twice", ref, "give one dump of one node")
        if s.port == 0 and s.protocol and s.timeout is None:
            raise InputError("port 0 needs persistence (-p)", ref, "ipvsadm says: zero port specified for non-persistent service")
        if s.one_packet and s.protocol not in (0, 17):
            raise InputError("one-packet scheduling (-o) is for UDP and firewall marks alone", ref)
        self.services[key] = s
        self.servers[key] = {}

    def add_server(self, key: _Key, r: RealServer, ref: Ref) -> None:
        if key not in self.services:
            raise InputError("the virtual service of this real server is not there", ref, "its line must come before")
        if (r.ip, r.port) in self.servers[key]:
            raise InputError(f"the real server {r.ip.port(r.port)} is there twice", ref, "give one dump of one node")
        if r.ip.family != key[0] and r.method is not Method.TUNNEL:
            raise InputError("a real server of another family can only be reached by a tunnel (-i)", ref)
        self.servers[key][r.ip, r.port] = r

    def result(self) -> tuple[VirtualService, ...]:
        return tuple(msgspec.structs.replace(s, servers=tuple(self.servers[key].values())) for key, s in self.services.items())


def _key(s: VirtualService) -> _Key:
    return s.family, s.protocol, s.fwmark, s.ip, s.port


def _save_line(made: _Made, words: list[str], ref: Ref) -> None:
    command = _LONG.get(words[0], words[0])
    if command not in ("-A", "-a"):
        hint = "expected -A SERVICE ... or -a SERVICE -r SERVER ..., as ipvsadm -S -n prints them"
        raise InputError(f"not a line of ipvsadm -S: {' '.join(words)[:60]!r}", ref, hint)
    given = _options(words[1:], _OF_SERVICE if command == "-A" else _OF_SERVER, ref)
    asked = [option for option in (*_PROTOCOLS, "-f") if option in given]
    if len(asked) != 1:
        raise InputError("the line does not name one virtual service (-t, -u, --sctp-service or -f)", ref, _CUT)
    protocol, fwmark, address, port, family = _PROTOCOLS.get(asked[0], 0), 0, None, 0, 4
    if asked[0] == "-f":
        fwmark = _number(given["-f"], 1, 0xFFFFFFFF, "firewall mark", ref)
        family = 6 if "-6" in given else 4
    else:
        address, port = _endpoint(given[asked[0]], 0, ref)
        family = address.family
    if command == "-a":
        made.add_server((family, protocol, fwmark, address, port), _server(given, port, ref), ref)
        return
    scheduler = _scheduler(given.get("-s", "wlc"), ref)
    timeout = None
    if "-p" in given:
        timeout = _number(given["-p"] or str(DEFAULT_TIMEOUT), 1, MAX_TIMEOUT, "timeout", ref)
    made.add_service(
        VirtualService(
            protocol,
            address,
            port,
            scheduler,
            fwmark=fwmark,
            family=family,
            flags=_flags(given["-b"], scheduler, ref) if "-b" in given else (),
            timeout=timeout,
            # without persistence the mask decides nothing, and ipvsadm forgets it
            netmask=_netmask(given["-M"], family, ref) if "-M" in given and timeout is not None else None,
            one_packet="-o" in given,
            engine=_engine(given.get("--pe", ""), ref),
            ref=ref,
        ),
        ref,
    )


def _options(words: list[str], known: frozenset[str], ref: Ref) -> dict[str, str]:
    """Options with their values ("" for none); `--opt=value` as popt takes it."""
    given: dict[str, str] = {}
    at = 0
    while at < len(words):
        word, equals, value = words[at].partition("=") if words[at].startswith("--") else (words[at], "", "")
        option = _LONG.get(word, word)
        at += 1
        if option not in known:
            everything = [*known, *(name for name, short in _LONG.items() if short in known)]
            raise InputError(f"unknown option {word!r}", ref, did_you_mean(word, everything) or "options: see ipvsadm(8)")
        if option in given:
            raise InputError(f"{word} is given twice", ref)
        if option not in _FLAGS and not equals:
            following = at < len(words) and not words[at].startswith("-")
            if following:
                value = words[at]
                at += 1
            elif option != "-p":  # the one option whose value may be left out
                raise InputError(f"{word} needs a value", ref, _CUT)
        given[option] = value
    return given


def _server(given: dict[str, str], port: int, ref: Ref) -> RealServer:
    if "-r" not in given:
        raise InputError("the line has no real server (-r)", ref, _CUT)
    address, at = _endpoint(given["-r"], port, ref)
    methods = [option for option in _METHODS if option in given]
    if len(methods) > 1:
        raise InputError(f"{' and '.join(methods)} are given: a real server has one forwarding method", ref)
    method = _METHODS[methods[0]] if methods else Method.ROUTE
    # Direct routing and tunnels leave the packet's port as it is: ipvsadm then puts the service's (ipvsadm.c)
    if method is not Method.MASQUERADE:
        at = port
    return RealServer(
        address,
        at,
        method,
        _number(given.get("-w", "1"), 0, MAX_WEIGHT, "weight", ref),
        _number(given.get("-x", "0"), 0, 0xFFFFFFFF, "threshold", ref),
        _number(given.get("-y", "0"), 0, 0xFFFFFFFF, "threshold", ref),
        _tunnel(given, method, ref),
    )


def _tunnel(given: dict[str, str], method: Method, ref: Ref) -> str:
    """The tunnel as ipvsadm prints it, "" for IPIP."""
    options = [option for option in given if option.startswith("--tun-")]
    if not options:
        return ""
    kind = given.get("--tun-type", "ipip")
    if kind not in ("ipip", "gue", "gre"):
        raise InputError(f"unknown tunnel type {kind!r}", ref, did_you_mean(kind, ("ipip", "gue", "gre")))
    if method is not Method.TUNNEL:
        raise InputError(f"{options[0]} goes with a tunnel (-i) alone", ref)
    if kind == "ipip":
        return ""
    words = [f"--tun-type {kind}"]
    if kind == "gue":
        words.append(f"--tun-port {_number(given.get('--tun-port', ''), 1, 65535, 'port (--tun-port)', ref)}")
    sums = [option for option in _SUMS if option in given]
    return " ".join([*words, sums[-1] if sums else "--tun-nocsum"])


def _parse_list(lines: list[tuple[int, str]], file: str) -> tuple[VirtualService, ...]:
    made = _Made()
    current: _Key | None = None
    for number, line in lines:
        ref, words = Ref(file, number), line.split()
        if line.startswith("IP Virtual Server"):
            continue
        if words[0] == "Prot":
            if words != _TITLE.split():
                _other_columns(ref)
        elif words[:2] == ["->", "RemoteAddress:Port"]:
            if words != _COLUMNS.split():
                _other_columns(ref)
        elif words[0] == "->":
            if current is None:
                raise InputError("a real server before any virtual service", ref, _CUT)
            made.add_server(current, _listed_server(words[1:], ref), ref)
        elif words[0] in _NAMES or words[0] == "FWM":
            service = _listed_service(words, ref)
            made.add_service(service, ref)
            current = _key(service)
        else:
            raise InputError(f"not a line of ipvsadm -ln: {line.strip()[:60]!r}", ref, "give what ipvsadm -S -n prints")
    return made.result()


def _other_columns(ref: Ref) -> NoReturn:
    raise InputError("these columns do not say how packets are forwarded", ref, "give what ipvsadm -S -n or ipvsadm -ln prints")


def _listed_service(words: list[str], ref: Ref) -> VirtualService:
    """`TCP  10.0.0.1:80 sh (sh-port) persistent 100 mask 255.255.255.0 pe sip ops`, `FWM  7 IPv6 rr`."""
    rest = iter(words[1:])

    def following(what: str) -> str:
        word = next(rest, None)
        if word is None:
            raise InputError(f"the line ends before the {what}", ref, _CUT)
        return word

    protocol, fwmark, address, port, family = _NAMES.get(words[0], 0), 0, None, 0, 4
    if protocol:
        address, port = _endpoint(following("address"), 0, ref)
        family = address.family
        scheduler = following("scheduler")
    else:
        fwmark = _number(following("firewall mark"), 1, 0xFFFFFFFF, "firewall mark", ref)
        scheduler = following("scheduler")
        if scheduler == "IPv6":
            family, scheduler = 6, following("scheduler")
    scheduler = _scheduler(scheduler, ref)
    flags: tuple[str, ...] = ()
    timeout = netmask = None
    engine, one_packet = "", False
    for word in rest:
        if word.startswith("(") and word.endswith(")"):
            flags = _flags(word[1:-1], scheduler, ref)
        elif word == "persistent":
            timeout = _number(following("timeout"), 1, MAX_TIMEOUT, "timeout", ref)
        elif word == "mask":
            netmask = _netmask(following("mask"), family, ref)
        elif word == "pe":
            engine = _engine(following("persistence engine"), ref)
        elif word == "ops":
            one_packet = True
        else:
            raise InputError(f"{word!r} is not understood", ref, _CUT)
    return VirtualService(
        protocol,
        address,
        port,
        scheduler,
        fwmark=fwmark,
        family=family,
        flags=flags,
        timeout=timeout,
        netmask=netmask,
        one_packet=one_packet,
        engine=engine,
        ref=ref,
    )


def _listed_server(words: list[str], ref: Ref) -> RealServer:
    if len(words) != 5:
        raise InputError(f"a real server has 5 columns, here are {len(words)}", ref, _CUT)
    address, port = _endpoint(words[0], 0, ref)
    if words[1] not in _FORWARDS:
        raise InputError(f"unknown forwarding method {words[1]!r}", ref, did_you_mean(words[1], _FORWARDS))
    for count in words[3:]:
        _number(count, 0, 0xFFFFFFFF, "number of connections", ref)
    return RealServer(address, port, _FORWARDS[words[1]], _number(words[2], 0, MAX_WEIGHT, "weight", ref))


def _endpoint(text: str, port: int, ref: Ref) -> tuple[Ip, int]:
    """`10.0.0.1:80`, `[fd00::1]:80`; an IPv4 address alone has the port `port`."""
    bracketed = re.fullmatch(r"\[([^\]]*)\]:(.*)", text)
    if text.count(":") > 1 and not text.startswith("["):
        raise InputError(f"{text!r} is not an address and a port", ref, "an IPv6 address stands in brackets: [fd00::1]:80")
    host, colon, number = (bracketed[1], ":", bracketed[2]) if bracketed else text.partition(":")
    try:
        address = ip(host)
    except ValueError:
        cut = not re.search("[a-zA-Z]", host) or text.startswith("[")
        what = f"{text!r} is not an address and a port" if cut else f"{host!r} is a name, not an address"
        raise InputError(what, ref, _CUT if cut else _NUMERIC) from None
    if address.family == 4 and bracketed:
        raise InputError(f"{text!r} is not an address and a port", ref, "an IPv4 address stands without brackets: 10.0.0.1:80")
    if not colon:
        return address, port
    if re.fullmatch("[a-zA-Z][a-zA-Z0-9-]*", number):
        raise InputError(f"{number!r} is the name of a port, not its number", ref, _NUMERIC)
    return address, _number(number, 0, 65535, "port", ref)


def _number(text: str, low: int, high: int, what: str, ref: Ref) -> int:
    if not text:
        raise InputError(f"the {what} is missing", ref, _CUT)
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise InputError(f"{text!r} is not a {what}", ref, f"it is a number from {low} to {high}")
    return int(text)


def _scheduler(text: str, ref: Ref) -> str:
    if text not in SCHEDULERS:
        hint = did_you_mean(text, SCHEDULERS) or f"Linux has {', '.join(SCHEDULERS)}"
        raise InputError(f"unknown scheduler {text!r}", ref, hint)
    return text


def _engine(text: str, ref: Ref) -> str:
    if text not in ("", "sip"):
        raise InputError(f"unknown persistence engine {text!r}", ref, "Linux has one: sip")
    return text


def _flags(text: str, scheduler: str, ref: Ref) -> tuple[str, ...]:
    """Scheduler flags in the order and with the names in which ipvsadm prints them."""
    own = _SCHEDULER_FLAGS.get(scheduler, _ANY_FLAGS)
    found = set()
    for word in text.split(","):
        if word in _ANY_FLAGS:
            number = _ANY_FLAGS.index(word)
            if number < len(own):  # sh and mh have no third flag, and ipvsadm forgets it
                found.add(own[number])
        elif word in own:
            found.add(word)
        else:
            hint = did_you_mean(word, own) or f"flags of {scheduler}: {', '.join(own)}"
            raise InputError(f"{scheduler} has no flag {word!r}", ref, hint)
    return tuple(flag for flag in own if flag in found)


def _netmask(text: str, family: int, ref: Ref) -> int | None:
    """The number of bits, None for all of them."""
    if family == 6:
        bits = _number(text, 1, 128, "prefix length", ref)
        return None if bits == 128 else bits
    try:
        mask = ip(text)
    except ValueError:
        mask = None
    if mask is None or mask.family != 4 or mask.value == 0:
        raise InputError(f"{text!r} is not a netmask", ref, "for example 255.255.255.0")
    bits = mask.value.bit_count()
    if mask.value != mask_of(4, bits):
        raise InputError(f"the netmask {text} has gaps, which is not modelled", ref, "for example 255.255.255.0")
    return None if bits == 32 else bits
