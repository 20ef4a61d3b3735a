"""Runs inside user-mode Linux: hand-made virtual services on the example cluster's nodes, predicted and performed.

    python tests/kernel/ipvs_cases.py CASE ...      prints one line of JSON a case

kube-proxy's rules are taken away; in their place stand rules that count what IPVS makes of a packet at every hook.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from netlab.kube.embedded import path_of_default
from netlab.kube.load import load
from netlab.lab.host import Lab
from netlab.lab.plan import make_plan
from netlab.lab.rulepath import verify_paths
from netlab.lab.verify import verify
from netlab.linux.addr import ip
from netlab.linux.ipvs import Method, RealServer, VirtualService
from netlab.linux.netns import Address, Device, DeviceKind, Netns
from netlab.linux.packet import SCTP, TCP, UDP
from netlab.linux.text import iptables_save
from netlab.trace.flows import Flow
from netlab.trace.query import Tracer

NODES = ("node-1", "node-2", "node-3")
MASQ, GATE, IPIP = Method.MASQUERADE, Method.ROUTE, Method.TUNNEL
VIP = {4: "10.96.100.{}", 6: "fd00:10:96::100:{}"}
API = {4: ("10.244.0.11", "10.244.1.11", "10.244.2.11"), 6: ("fd00:10:244::11", "fd00:10:244:1::11", "fd00:10:244:2::11")}
WEB = {4: ("10.244.0.10", "10.244.1.10"), 6: ("fd00:10:244::10", "fd00:10:244:1::10")}
DNS = {4: "10.244.2.53", 6: "fd00:10:244:2::53"}
HOST = {4: "192.168.50.{}", 6: "fd00:192:168:50::{}"}
OUTSIDE = {4: "198.51.100.7", 6: "2001:db8:1::7"}

# Rules of every node, of both families; {pods} is the family's pod network.
RULES = """*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
{mark}
{ipvs}
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 80
-A INPUT -m ipvs --ipvs
-A OUTPUT -m ipvs --ipvs
{masquerade}
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
{filter}
COMMIT
"""
STATES = ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED", "SNAT", "DNAT")
IPVS = (
    "--ipvs", "! --ipvs", "--vproto 6", "--vport 80", "! --vport 80", "--vdir ORIGINAL", "--vdir REPLY", "--vmethod MASQ",
    "--vmethod GATE", "--vaddr {net}", "! --vaddr {net}", "--vportctl 80",
)  # fmt: skip


def rules(family: int, mark: str = "", masquerade: str = "") -> str:
    """The rules of a node as iptables-save prints them."""
    net = "10.96.100.0/24" if family == 4 else "fd00:10:96::100:0/112"
    hooks = ("INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
    asked = [f"-A {hook} -m ipvs {text.format(net=net)}" for hook in hooks for text in IPVS]
    ttl = "-m ttl --ttl-eq 63" if family == 4 else "-m hl --hl-eq 63"
    seen = []
    for hook in ("INPUT", "FORWARD", "OUTPUT"):
        seen += [f"-A {hook} -m conntrack --ctstate {state}" for state in STATES]
        seen += [f"-A {hook} -d {net}", f"-A {hook} -s {net}", f"-A {hook} {ttl}"]
    seen += ["-A OUTPUT -o eth0", "-A OUTPUT -p udp -m udp --dport 8472 -m ipvs --ipvs", "-A OUTPUT -p udp -m udp --dport 8472"]
    return RULES.format(mark=mark, ipvs="\n".join(asked), masquerade=masquerade, filter="\n".join(seen))


def service(
    family: int,
    n: int,
    port: int,
    servers: Iterable[tuple[str, int]],
    method: Method = MASQ,
    proto: int = TCP,
    scheduler: str = "rr",
    **more: object,
) -> VirtualService:
    real = tuple(RealServer(ip(a), p, method) for a, p in servers)
    made = VirtualService(proto, ip(VIP[family].format(n)), port, scheduler, real, family=family)
    return replace(made, **more)


def at(family: int, addresses: Iterable[str], port: int) -> list[tuple[str, int]]:
    return [(address, port) for address in addresses]


def base(family: int) -> list[VirtualService]:
    """Services that every node has."""
    host = [HOST[family].format(n) for n in (11, 12)]
    return [
        service(family, 1, 80, at(family, API[family], 9000)),
        service(family, 2, 80, at(family, [*API[family], *WEB[family]], 9000), scheduler="sh", flags=("sh-port",)),
        service(family, 3, 53, [(DNS[family], 53)], proto=UDP),
        service(family, 4, 80, []),
        service(family, 4, 53, [], proto=UDP),
        service(family, 5, 80, [(host[0], 10250), (host[1], 10250)]),  # the nodes themselves
        service(family, 6, 80, at(family, API[family], 9001)),  # nobody listens there
        service(family, 7, 53, at(family, API[family], 53), proto=UDP),  # nor there: ICMP port unreachable
        service(family, 8, 80, [(OUTSIDE[family], 443)]),
        service(family, 9, 80, at(family, API[family], 9000), timeout=300, scheduler="wlc"),
        service(family, 10, 0, at(family, API[family], 0), timeout=300, netmask=24 if family == 4 else 64),
        service(family, 11, 9000, at(family, API[family], 9000), proto=SCTP),
        service(family, 12, 80, [("10.244.0.99" if family == 4 else "fd00:10:244::99", 9000)]),  # nobody there
        service(family, 13, 53, [(DNS[family], 53)], proto=UDP, one_packet=True),
        service(family, 14, 80, at(family, API[family], 9000), scheduler="fo"),
        service(family, 15, 80, at(family, API[family], 9000), scheduler="mh", flags=("mh-port",)),
        service(family, 16, 21, at(family, API[family], 9000)),
        service(family, 17, 80, at(family, [API[family][0]], 9000), method=GATE),  # nobody has the address there
        *(
            replace(service(family, 0, 30080, at(family, API[family], 9000)), ip=ip(HOST[family].format(n)))
            for n in (11, 12, 13, 200)  # 200: an address of the nodes' own link on every kube-ipvs0
        ),
    ]


Change = Callable[[Netns], Netns]


def node(
    services: Mapping[int, list[VirtualService]], conntrack: int, mark: Mapping[int, str] = {}, masquerade: Mapping[int, str] = {}
) -> Change:
    """A node with virtual services, their addresses on kube-ipvs0, and the rules that count."""

    def change(old: Netns) -> Netns:
        own = {a.ip for d in old.devices.values() for a in d.addresses}
        addresses = dict.fromkeys(
            Address(s.ip, s.ip.bits) for family in (4, 6) for s in services[family] if s.ip is not None and s.ip not in own
        )
        others = {ip(HOST[f].format(n)) for f in (4, 6) for n in (11, 12, 13)}
        dummy = Device(
            "kube-ipvs0", DeviceKind.DUMMY, 90, mac="02:00:00:00:00:90", up=False,
            addresses=tuple(a for a in addresses if a.ip not in others),
        )  # fmt: skip
        made = {f: iptables_save.parse(rules(f, mark.get(f, ""), masquerade.get(f, "")), family=f, file="test") for f in (4, 6)}
        return replace(
            old,
            devices={**old.devices, "kube-ipvs0": dummy},
            rulesets=made,
            sets={},
            ipvs=tuple(s for f in (4, 6) for s in services[f]),
            sysctls={**old.sysctls, "ipv4.vs.conntrack": conntrack},
            cache={},
        )

    return change


def with_address(old: Netns, *addresses: str) -> Netns:
    """Addresses on lo: what a real server of direct routing needs."""
    lo = old.devices["lo"]
    more = tuple(Address(ip(a), ip(a).bits) for a in addresses)
    return replace(old, devices={**old.devices, "lo": replace(lo, addresses=(*lo.addresses, *more))}, cache={})


def tracer_of(changes: Mapping[str, Change]) -> Tracer:
    tracer = Tracer(load([str(path_of_default())]))
    spaces = {name: changes[name](space) if name in changes else space for name, space in tracer.network.namespaces.items()}
    tracer.network = replace(tracer.network, namespaces=spaces)
    tracer._networks.clear()
    return tracer


def all_masquerade(family: int) -> str:
    pods = "10.244.0.0/16" if family == 4 else "fd00:10:244::/56"
    return f"-A POSTROUTING -s {pods} -d {pods} -j RETURN\n-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE"


def marks(family: int) -> str:
    """Everything to a virtual service is masqueraded."""
    net = "10.96.100.0/24" if family == 4 else "fd00:10:96::100:0/112"
    return "\n".join(f"-A {hook} -d {net} -j MARK --set-xmark 0x4000/0x4000" for hook in ("PREROUTING", "OUTPUT"))


def plain(conntrack: int) -> tuple[Tracer, list[Flow]]:
    services = {4: base(4), 6: base(6)}
    return tracer_of(dict.fromkeys(NODES, node(services, conntrack))), all_flows()


def masqueraded(conntrack: int) -> tuple[Tracer, list[Flow]]:
    services = {4: base(4), 6: base(6)}
    force = dict.fromkeys((4, 6), "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE")
    return tracer_of(dict.fromkeys(NODES, node(services, conntrack, {f: marks(f) for f in (4, 6)}, force))), all_flows()


FABRIC_VIP = {4: "192.168.50.{}", 6: "fd00:192:168:50::{}"}


def methods(conntrack: int, mark: bool = False) -> tuple[Tracer, list[Flow]]:
    """node-1 is the director of addresses on the nodes' own link; node-2 and node-3 are real servers that hold them on lo."""
    nodes = {f: [HOST[f].format(n) for n in (12, 13)] for f in (4, 6)}
    vip = {f: {n: FABRIC_VIP[f].format(n) for n in (100, 101, 102, 103, 104)} for f in (4, 6)}
    services: dict[int, list[VirtualService]] = {4: [], 6: []}
    wanted: list[Flow] = []
    for family in (4, 6):
        own = [HOST[family].format(11)]
        for number, method, servers, port in (
            (100, GATE, nodes[family], 9100),
            (100, GATE, [*nodes[family], *own], 10250),
            (100, GATE, nodes[family], 9),  # nothing listens
            (101, IPIP, nodes[family], 9100),
            (101, IPIP, [*nodes[family], *own], 10250),
            (101, IPIP, nodes[family], 9),
            (102, MASQ, nodes[family], 9100),
            (102, MASQ, own, 10250),
            (101, IPIP, ["10.244.1.99"], 77),  # nobody there: the error about the tunnel is told to the client
        ):
            if method is IPIP and family == 6:
                continue
            servers_at = at(family, servers, port)
            services[family].append(replace(service(family, 0, port, servers_at, method), ip=ip(vip[family][number])))
            outside = "203.0.113.7" if family == 4 else "2001:db8::7"
            to = ip(vip[family][number]).port(port)
            wanted += [Flow(source, to, "tcp") for source in (outside, "web-0", "node/node-1", "node/node-2")]
            services[family].append(replace(services[family][-1], protocol=UDP))
            wanted += [Flow(source, ip(vip[family][number]).port(port), "udp") for source in (outside, "web-0", "node/node-1")]
        wanted += [Flow(outside, ip(vip[family][102]).port(9100), "tcp", size) for size in (1400, 1500)]
        wanted += [Flow(outside, ip(vip[family][101]).port(9), "udp", size) for size in (1400, 1500) if family == 4]
        # on this node: a mark stays on a tunnel's packet, too, and the service would catch it again and again
        services[family].append(VirtualService(0, None, 0, "rr", (RealServer(ip(API[family][0]), 0, MASQ),), 7, family))
        for n in (103,):
            wanted += [Flow(s, ip(vip[family][n]).port(p), "tcp") for s in (outside, "web-0", "node/node-1") for p in (9000, 77)]

    def director(old: Netns) -> Netns:
        made = node(
            services, conntrack,
            {f: "\n".join(f"-A {h} -d {vip[f][96 + m]} -p tcp -j MARK --set-xmark {m:#x}/0xffffffff"
                          for h in ("PREROUTING", "OUTPUT") for m in (7,)) for f in (4, 6)},
            {4: "-A POSTROUTING -d 10.244.0.0/16 -m ipvs --vdir ORIGINAL -j MASQUERADE" if mark else ""},
        )(old)  # fmt: skip
        eth0 = made.devices["eth0"]
        more = tuple(Address(ip(vip[f][n]), ip(vip[f][n]).bits) for f in (4, 6) for n in vip[f])
        devices = {"eth0": replace(eth0, addresses=(*eth0.addresses, *more))}
        devices["kube-ipvs0"] = replace(made.devices["kube-ipvs0"], addresses=())
        return replace(made, devices={**made.devices, **devices})

    def server(old: Netns) -> Netns:
        tunnel = Device("tunl0", DeviceKind.IPIP, 91, mtu=1480)
        made = with_address(old, *(vip[f][n] for f in (4, 6) for n in (100, 101)))
        sysctls = {**old.sysctls, "ipv4.conf.all.arp_ignore": 1, "ipv4.conf.all.arp_announce": 2}
        ruleset = {f: iptables_save.parse(rules(f), family=f, file="test") for f in (4, 6)}
        return replace(made, devices={**made.devices, "tunl0": tunnel}, sysctls=sysctls, rulesets=ruleset, sets={})

    return tracer_of({"node-1": director, "node-2": server, "node-3": server}), wanted


SOURCES = ("web-0", "api-0", "api-1", "node/node-1", "node/node-2", "kube-system/dns-0")


def all_flows(numbers: Iterable[int] = range(1, 18)) -> list[Flow]:
    found = []
    for family in (4, 6):
        for source in SOURCES:
            for n in numbers:
                vip = VIP[family].format(n)
                port, proto = (53, "udp") if n in (3, 7, 13) else (80, "tcp")
                found.append(Flow(source, ip(vip).port(port), proto))
                if n == 4:
                    found.append(Flow(source, ip(vip).port(53), "udp"))
                if n in (1, 4, 10):
                    other = ip(vip).port(81)
                    found += [Flow(source, other, "tcp"), Flow(source, vip, "icmp"), Flow(source, other, "udp")]
                if n == 11:
                    found.append(Flow(source, ip(vip).port(9000), "sctp"))
                if n == 16:
                    found += [Flow(source, ip(vip).port(port), "tcp") for port in (21, 20, 2000)]
            found += [Flow(source, ip(HOST[family].format(k)).port(30080), "tcp") for k in (11, 12, 13)]
        outside = "203.0.113.7" if family == 4 else "2001:db8::7"
        found += [Flow(outside, ip(HOST[family].format(k)).port(30080), "tcp") for k in (11, 12, 13, 200)]
        found.append(Flow(outside, HOST[family].format(200), "icmp"))
    return found


CASES: dict[str, Callable[[], tuple[Tracer, list[Flow]]]] = {
    "conntrack": lambda: plain(1),
    "no conntrack": lambda: plain(0),
    "masqueraded": lambda: masqueraded(1),
    "masqueraded, no conntrack": lambda: masqueraded(0),
    "methods": lambda: methods(1),
    "methods, no conntrack": lambda: methods(0),
    "methods, masqueraded": lambda: methods(1, True),
}


def perform(name: str, count: int) -> dict[str, object]:
    begun = time.monotonic()
    tracer, wanted = CASES[name]()
    with Lab.start(make_plan(tracer.network)) as lab:
        report = verify(tracer, lab, wanted)
        step = max(len(wanted) // count, 1) if count else len(wanted) + 1
        plain_flows = [flow for flow in wanted if flow.size is None]  # the sender remembers the MTU that it was told
        counted = verify_paths(tracer, tracer.network, lab, plain_flows[::step] if count else [], "legacy")
        time.sleep(6 if counted.disagreements else 0)  # IPv6 asks for its neighbours again after 5 s, and rules count that, too
        again = verify_paths(tracer, tracer.network, lab, [d.flow for d in counted.disagreements], "legacy")
    return {
        "case": name,
        "summary": report.summary,
        "disagreements": [str(d) for d in report.disagreements],
        "agreed": report.agreed,
        "unknown": report.unknown,
        "again": [str(d) for d in report.again],
        "counted": counted.agreed + again.agreed,
        "miscounted": [str(d) for d in again.disagreements],
        "rules": len(counted.rules),
        "seconds": round(time.monotonic() - begun, 1),
    }


def main() -> None:
    count = int(sys.argv[1])
    for name in sys.argv[2:] or CASES:
        print(json.dumps(perform(name, count)), flush=True)


if __name__ == "__main__":
    main()
