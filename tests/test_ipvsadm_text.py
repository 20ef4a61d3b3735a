"""ipvsadm text: recordings and every option come out as they went in, bad lines are told by file and line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netlab.errors import InputError
from netlab.linux.addr import Ip
from netlab.linux.ipvs import SCHEDULERS, Method, RealServer, VirtualService
from netlab.linux.text import ipvsadm

DATA = Path(__file__).parent / "data" / "kube-proxy-1.30.5"
SAVED = sorted(DATA.glob("*/ipvs/*.ipvsadm-Sn"))


def values(services: tuple[VirtualService, ...]) -> list[VirtualService]:
    return [msgspec.structs.replace(s, ref=None) for s in services]


def test_there_are_recordings():
    assert len(SAVED) == 3


@pytest.mark.parametrize("path", SAVED, ids=lambda p: f"{p.parts[-3]}-{p.name}")
def test_recordings_round_trip_in_both_forms_and_say_the_same(path: Path):
    text, listed = path.read_text(), path.with_name(path.name.replace("-Sn", "-ln")).read_text()
    services = ipvsadm.parse(text, path.name)
    assert ipvsadm.write_save(services) == text
    assert ipvsadm.write_list(services) == listed
    assert values(ipvsadm.parse(listed)) == values(services)
    assert [s.ref.line for s in services] == [n for n, line in enumerate(text.splitlines(), 1) if line.startswith("-A")]
    assert sorted(services, key=ipvsadm.sort_key) == list(services)


# What people write, and what ipvsadm 1.31 says of it after `ipvsadm -R` (tests/kernel/test_ipvsadm.py asks it).
SPELLINGS = [
    ("-A -t 10.0.0.1:80", "-A -t 10.0.0.1:80 -s wlc"),
    ("--add-service --tcp-service 10.0.0.1:80 --scheduler rr", "-A -t 10.0.0.1:80 -s rr"),
    ("-A --tcp-service=10.0.0.1:80 --scheduler=rr", "-A -t 10.0.0.1:80 -s rr"),
    ("-A -u 10.0.0.1:53 -s rr -o", "-A -u 10.0.0.1:53 -s rr -o"),
    ("-A --sctp-service [fd00::1]:7 -s rr", "-A --sctp-service [fd00::1]:7 -s rr"),
    ("-A -f 7 -s rr", "-A -f 7 -s rr"),
    ("-A -f 7 -6 -s rr -o", "-A -f 7 -6 -s rr -o"),
    ("-A -t 10.0.0.1:80 -s rr -p", "-A -t 10.0.0.1:80 -s rr -p 360"),
    ("-A -t 10.0.0.1:80 -p -s rr", "-A -t 10.0.0.1:80 -s rr -p 360"),
    ("-A -t 10.0.0.1:0 -s rr -p 50", "-A -t 10.0.0.1:0 -s rr -p 50"),
    ("-A -t 10.0.0.1 -s rr -p 50", "-A -t 10.0.0.1:0 -s rr -p 50"),
    ("-A -t 10.0.0.1:80 -s rr -p 50 -M 255.255.255.0", "-A -t 10.0.0.1:80 -s rr -p 50 -M 255.255.255.0"),
    ("-A -t 10.0.0.1:80 -s rr -p 50 -M 255.255.255.255", "-A -t 10.0.0.1:80 -s rr -p 50"),
    ("-A -t 10.0.0.1:80 -s rr -M 255.255.255.0", "-A -t 10.0.0.1:80 -s rr"),
    ("-A -t [fd00::1]:80 -s rr -p 50 -M 64", "-A -t [fd00::1]:80 -s rr -p 50 -M 64"),
    ("-A -u 10.0.0.1:5060 -s rr -p 9 --pe sip -o", "-A -u 10.0.0.1:5060 -s rr -p 9 --pe sip -o"),
    ("-A -t 10.0.0.1:80 -s sh -b sh-port,sh-fallback", "-A -t 10.0.0.1:80 -s sh -b sh-fallback,sh-port"),
    ("-A -t 10.0.0.1:80 -s sh -b flag-2,flag-3", "-A -t 10.0.0.1:80 -s sh -b sh-port"),
    ("-A -t 10.0.0.1:80 -s mh -b mh-port", "-A -t 10.0.0.1:80 -s mh -b mh-port"),
    ("-A -t 10.0.0.1:80 -s rr -b flag-3,flag-1", "-A -t 10.0.0.1:80 -s rr -b flag-1,flag-3"),
    ("-a -t 10.9.9.9:80 -r 10.0.0.2", "-a -t 10.9.9.9:80 -r 10.0.0.2:80 -g -w 1"),
    ("-a -t 10.9.9.9:80 -r 10.0.0.2:99 -g", "-a -t 10.9.9.9:80 -r 10.0.0.2:80 -g -w 1"),
    ("-a -t 10.9.9.9:80 -r 10.0.0.2:99 --masquerading --weight 0", "-a -t 10.9.9.9:80 -r 10.0.0.2:99 -m -w 0"),
    ("-a -t 10.9.9.9:80 -r 10.0.0.2 -i -w 65536", "-a -t 10.9.9.9:80 -r 10.0.0.2:80 -i -w 65536 --tun-type ipip"),
    ("-a -t 10.9.9.9:80 -r [fd00::2]:80 -i", "-a -t 10.9.9.9:80 -r [fd00::2]:80 -i -w 1 --tun-type ipip"),
    (
        "-a -t 10.9.9.9:80 -r 10.0.0.2 -i --tun-type gue --tun-port 6080",
        "-a -t 10.9.9.9:80 -r 10.0.0.2:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum",
    ),
    (
        "-a -t 10.9.9.9:80 -r 10.0.0.2 -i --tun-type gue --tun-port 6080 --tun-remcsum",
        "-a -t 10.9.9.9:80 -r 10.0.0.2:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum",
    ),
    (
        "-a -t 10.9.9.9:80 -r 10.0.0.2 -i --tun-type gre --tun-csum",
        "-a -t 10.9.9.9:80 -r 10.0.0.2:80 -i -w 1 --tun-type gre --tun-csum",
    ),
]
OF_SERVERS = "-A -t 10.9.9.9:80 -s rr"  # the service that the lines with -a are about


@pytest.mark.parametrize(("line", "said"), SPELLINGS)
def test_spellings(line: str, said: str):
    before = f"{OF_SERVERS}\n" if line.startswith("-a") else ""
    assert ipvsadm.write_save(ipvsadm.parse(f"{before}{line}\n")) == f"{before}{said}\n"


def test_thresholds_are_kept_though_ipvsadm_forgets_them():
    text = "-A -t 10.9.9.9:80 -s rr\n-a -t 10.9.9.9:80 -r 10.0.0.2:80 -m -w 1 -x 50 -y 20\n"
    (service,) = ipvsadm.parse(text)
    assert (service.servers[0].upper, service.servers[0].lower) == (50, 20)
    assert ipvsadm.write_save((service,)) == text


LISTED = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.0.0.1:80 sh (sh-fallback,sh-port) persistent 100 mask 255.255.255.0
  -> 10.0.0.2:80                  Masq    0      3          7         
  -> 10.0.0.3:80                  Local   1      0          0         
  -> 10.0.0.4:80                  Tunnel  1      0          0         
UDP  10.0.0.1:5060 wlc persistent 360 pe sip ops
TCP  [fd00::1]:80 wlc persistent 50 mask 64
FWM  7 IPv6 rr
  -> [fd00::2]:90                 Masq    1      0          0         
FWM  7 wlc
"""  # noqa: W291


def test_a_list_with_everything():
    services = ipvsadm.parse(LISTED)
    assert ipvsadm.write_save(services).splitlines() == [
        "-A -t 10.0.0.1:80 -s sh -p 100 -M 255.255.255.0 -b sh-fallback,sh-port",
        "-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -w 0",
        "-a -t 10.0.0.1:80 -r 10.0.0.3:80 -g -w 1",
        "-a -t 10.0.0.1:80 -r 10.0.0.4:80 -i -w 1 --tun-type ipip",
        "-A -u 10.0.0.1:5060 -s wlc -p 360 --pe sip -o",
        "-A -t [fd00::1]:80 -s wlc -p 50 -M 64",
        "-A -f 7 -6 -s rr",
        "-a -f 7 -6 -r [fd00::2]:90 -m -w 1",
        "-A -f 7 -s wlc",
    ]


@pytest.mark.parametrize(
    ("text", "line", "says", "hint"),
    [
        ("-A -t 10.0.0.1:80 -s rrr", 1, "unknown scheduler 'rrr'", 'did you mean "rr"'),
        ("-A -t 10.0.0.1:80 -s fancy", 1, "unknown scheduler 'fancy'", "Linux has rr, wrr"),
        ("-A -t web.example:80 -s rr", 1, "'web.example' is a name, not an address", "ipvsadm -S -n"),
        ("-A -t localhost:http -s rr", 1, "'localhost' is a name, not an address", "ipvsadm -S -n"),
        ("-A -t 10.0.0.1:http -s rr", 1, "'http' is the name of a port, not its number", "ipvsadm -S -n"),
        ("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r web-0:8080 -m -w 1", 2, "'web-0' is a name", "ipvsadm -S -n"),
        ("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r", 2, "-r needs a value", "cut off"),
        ("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80", 2, "the line has no real server (-r)", "cut off"),
        ("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0", 2, "'10.0.0' is not an address and a port", "cut off"),
        ("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.2: -m", 2, "the port is missing", "cut off"),
        ("-A -t [fd00::", 1, "'[fd00::' is not an address and a port", "cut off"),
        ("-A", 1, "the line does not name one virtual service", "cut off"),
        ("-A -t 10.0.0.1:80 -f 7", 1, "the line does not name one virtual service", ""),
        ("-A -t fd00::1", 1, "'fd00::1' is not an address and a port", "[fd00::1]:80"),
        ("-A -t 10.0.0.1:80 -s rr\n\n-A -t 10.0.0.1:80 -s rr", 3, "the virtual service is there twice", "one dump"),
        ("-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -w 1", 1, "the virtual service of this real server is not there", "before"),
        (
            "-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.2:80\n-a -t 10.0.0.1:80 -r 10.0.0.2:80",
            3,
            "the real server 10.0.0.2:80 is there twice",
            "one dump",
        ),
        ("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r [fd00::1]:80 -m", 2, "a real server of another family", ""),
        ("-A -t 10.0.0.1:0 -s rr", 1, "port 0 needs persistence", ""),
        ("-A -t 10.0.0.1:80 -s rr -o", 1, "one-packet scheduling", ""),
        ("-A -t 10.0.0.1:70000 -s rr", 1, "'70000' is not a port", "0 to 65535"),
        ("-A -t 10.0.0.1:80 -s rr -p 0", 1, "'0' is not a timeout", "1 to 2678400"),
        ("-A -t 10.0.0.1:80 -s rr -p 9 -M 255.0.255.0", 1, "the netmask 255.0.255.0 has gaps", ""),
        ("-A -t 10.0.0.1:80 -s rr -p 9 --pe ftp", 1, "unknown persistence engine 'ftp'", "sip"),
        ("-A -t 10.0.0.1:80 -s sh -b sh-prot", 1, "sh has no flag 'sh-prot'", 'did you mean "sh-port"'),
        ("-A -t 10.0.0.1:80 --schedular rr", 1, "unknown option '--schedular'", 'did you mean "--scheduler"'),
        ("-A -t 10.0.0.1:80 -r 10.0.0.2:80", 1, "unknown option '-r'", ""),
        ("-A -t 10.0.0.1:80 -s rr -s wrr", 1, "-s is given twice", ""),
        ("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -g", 2, "one forwarding method", ""),
        ("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-type gue", 2, "the port (--tun-port) is missing", ""),
        ("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.2 -m --tun-type gre", 2, "--tun-type goes with a tunnel", ""),
        ("*nat\n", 1, "not a line of ipvsadm -S: '*nat'", "-A SERVICE"),
        (f"{LISTED}  -> 10.0.0.9:80                  Mas", 13, "a real server has 5 columns, here are 2", "cut off"),
        (f"{LISTED}  -> 10.0.0.9:80  Masquerade 1 0 0", 13, "unknown forwarding method 'Masquerade'", ""),
        (f"{LISTED}  -> web-0:8080  Masq 1 0 0", 13, "'web-0' is a name, not an address", "ipvsadm -ln"),
        (f"{LISTED}TCP  localhost:http rr", 13, "'localhost' is a name, not an address", "ipvsadm -ln"),
        (f"{LISTED}TCP  10.0.0.7:80", 13, "the line ends before the scheduler", "cut off"),
        (f"{LISTED}TCP  10.0.0.7:80 rr persistent", 13, "the line ends before the timeout", "cut off"),
        (f"{LISTED}TCP  10.0.0.7:80 rr persistant 9", 13, "'persistant' is not understood", ""),
        (f"{LISTED}hello", 13, "not a line of ipvsadm -ln: 'hello'", "ipvsadm -S -n"),
        ("Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn", 1, "these columns", "ipvsadm -S -n"),
        ("TCP  10.0.0.1:80 rr\n-> RemoteAddress:Port Conns", 2, "these columns", "ipvsadm -S -n"),
        ("IP Virtual Server version 1.2.1 (size=4096)\n  -> 10.0.0.2:80 Masq 1 0 0", 2, "before any virtual service", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_with_its_line(text: str, line: int, says: str, hint: str):
    with pytest.raises(InputError) as error:
        ipvsadm.parse(text, "node-1/ipvsadm")
    assert f"node-1/ipvsadm:{line}: " in str(error.value)
    assert says in error.value.what
    assert hint in (error.value.hint or "")


def test_nothing_and_titles_alone_have_no_services():
    assert ipvsadm.parse("") == ipvsadm.parse("\n# a comment\n") == ipvsadm.parse(ipvsadm.write_list(())) == ()


# --- any services -----------------------------------------------------------------------------------------------------

_OWN_FLAGS = {"sh": ("sh-fallback", "sh-port"), "mh": ("mh-fallback", "mh-port")}


def addresses(family: int) -> st.SearchStrategy[Ip]:
    # No address whose text has a meaning of its own is needed: 0.0.0.0 is refused by the kernel.
    return st.integers(1, 2 ** (32 if family == 4 else 128) - 1).map(lambda value: Ip(family, value))


@st.composite
def servers(draw: st.DrawFn, family: int, port: int) -> RealServer:
    method = draw(st.sampled_from(Method))
    return RealServer(
        draw(addresses(family)),
        draw(st.integers(0, 65535)) if method is Method.MASQUERADE else port,
        method,
        draw(st.integers(0, 65536)),
        draw(st.integers(0, 9)),
        draw(st.integers(0, 9)),
        draw(st.sampled_from(["", "--tun-type gre --tun-csum", "--tun-type gue --tun-port 6080 --tun-nocsum"]))
        if method is Method.TUNNEL
        else "",
    )


@st.composite
def virtual_services(draw: st.DrawFn) -> VirtualService:
    family, protocol = draw(st.sampled_from([4, 6])), draw(st.sampled_from([0, 6, 17, 132]))
    port = draw(st.integers(1, 65535)) if protocol else 0
    scheduler = draw(st.sampled_from(SCHEDULERS))
    flags = _OWN_FLAGS.get(scheduler, ("flag-1", "flag-2", "flag-3"))
    timeout = draw(st.none() | st.integers(1, ipvsadm.MAX_TIMEOUT))
    chosen = draw(st.sets(st.sampled_from(flags)))
    behind = draw(st.lists(servers(family, port), max_size=3, unique_by=lambda r: (r.ip, r.port)))
    return VirtualService(
        protocol,
        draw(addresses(family)) if protocol else None,
        port,
        scheduler,
        tuple(behind),
        fwmark=0 if protocol else draw(st.integers(1, 0xFFFFFFFF)),
        family=family,
        flags=tuple(f for f in flags if f in chosen),
        timeout=timeout,
        netmask=draw(st.none() | st.integers(1, 31)) if timeout else None,
        one_packet=draw(st.booleans()) if protocol in (0, 17) else False,
        engine=draw(st.sampled_from(["", "sip"])),
    )


PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no finding
ANY = st.lists(virtual_services(), max_size=4, unique_by=lambda s: (s.family, s.protocol, s.ip, s.port, s.fwmark))


@PATIENT
@given(ANY)
def test_what_is_written_is_read_back(services: list[VirtualService]):
    text = ipvsadm.write_save(services)
    assert values(ipvsadm.parse(text)) == services
    assert ipvsadm.write_save(ipvsadm.parse(text)) == text


@PATIENT
@given(ANY)
def test_a_list_is_read_back_but_for_what_it_does_not_say(services: list[VirtualService]):
    told = [
        msgspec.structs.replace(
            s,
            engine=s.engine if s.timeout else "",
            servers=tuple(RealServer(r.ip, r.port, r.method, r.weight) for r in s.servers),
        )
        for s in services
    ]
    assert values(ipvsadm.parse(ipvsadm.write_list(services))) == told


@PATIENT
@given(ANY, st.data())
def test_a_text_that_was_cut_off_is_read_or_told(services: list[VirtualService], data: st.DataObject):
    for text in (ipvsadm.write_save(services), ipvsadm.write_list(services)):
        cut = text[: data.draw(st.integers(0, len(text)))]
        told = None
        try:
            ipvsadm.parse(cut, "ipvsadm")
        except InputError as error:
            told = error
        assert told is None or (told.ref is not None and told.ref.line)
