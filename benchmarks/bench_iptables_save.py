"""How long does it take to read a large kube-proxy ruleset, and how long do the real tools take to check the same text?

    python benchmarks/bench_iptables_save.py [--services 10000] [--endpoints 3] [--write FILE]

The text has the shape of kube-proxy v1.30 in iptables mode (tests/data/kube-proxy-1.30.5). The tools run with --test, which
parses and checks without loading, in a fresh network namespace (needs root). Times are the best of several runs.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import shutil
import subprocess
import time
from base64 import b32encode

from netlab.linux.addr import Ip
from netlab.linux.hooks import IPTABLES_TABLES
from netlab.linux.matches import (
    Addrtype,
    Comment,
    Destination,
    Mark,
    Match,
    PortRange,
    Protocol,
    Source,
    Statistic,
    Tcp,
)
from netlab.linux.rules import Chain, Rule, Ruleset, Table
from netlab.linux.targets import Dnat, Jump, Masquerade, NatRange, Return, SetMark
from netlab.linux.text.iptables_save import parse, write

HOST = 0xFFFFFFFF


def portal(name: str, *parts: str) -> str:
    return name + b32encode(hashlib.sha256("".join(parts).encode()).digest()).decode()[:16]


def kube_proxy(services: int, endpoints: int) -> Ruleset:
    """A nat table with `services` TCP services of `endpoints` pods each."""
    pods = Source(4, 0x0AF40000, 0xFFFF0000, negate=True)  # ! -s 10.244.0.0/16
    tcp = Protocol(6)
    masq = Jump("KUBE-MARK-MASQ")
    portals: list[Rule] = []
    chains: dict[str, list[Rule]] = {}
    for n in range(services):
        name = f"ns-{n % 50}/app-{n}:http"
        chain = portal("KUBE-SVC-", name, "tcp")
        to = (Destination(4, 0x0A600000 + n + 1, HOST), tcp, Comment(f"{name} cluster IP"), Tcp(dport=PortRange(80, 80)))
        portals.append(Rule(to, Jump(chain)))
        rules = [Rule((pods, *to), masq)]
        for e in range(endpoints):
            pod = Ip(4, 0x0AF40000 + (n * endpoints + e) % 65000 + 2)
            end = portal("KUBE-SEP-", name, "tcp", pod.port(8080))
            why: tuple[Match, ...] = (Comment(f"{name} -> {pod.port(8080)}"),)
            if e < endpoints - 1:
                why = (*why, Statistic(threshold=round(2**31 / (endpoints - e))))
            rules.append(Rule(why, Jump(end)))
            chains[end] = [
                Rule((Source(4, pod.value, HOST), Comment(name)), masq),
                Rule((tcp, Comment(name), Tcp()), Dnat(NatRange(pod, port_low=8080))),
            ]
        chains[chain] = rules
    into = Rule((Comment("kubernetes service portals"),), Jump("KUBE-SERVICES"))
    base = {
        "PREROUTING": [into],
        "INPUT": [],
        "OUTPUT": [into],
        "POSTROUTING": [Rule((Comment("kubernetes postrouting rules"),), Jump("KUBE-POSTROUTING"))],
    }
    nodeports = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
    chains["KUBE-SERVICES"] = [
        *portals,
        Rule((Comment(nodeports), Addrtype(dst_types=frozenset({"LOCAL"}))), Jump("KUBE-NODEPORTS")),
    ]
    chains["KUBE-NODEPORTS"] = []
    chains["KUBE-MARK-MASQ"] = [Rule((), SetMark(0x4000, 0x4000))]
    chains["KUBE-POSTROUTING"] = [
        Rule((Mark(0x4000, 0x4000, negate=True),), Return()),
        Rule((), SetMark(0x4000, 0)),
        Rule((Comment("kubernetes service traffic requiring SNAT"),), Masquerade(NatRange(random_fully=True))),
    ]
    hooks = {hook.value: (hook, priority) for hook, priority in IPTABLES_TABLES["nat"].items()}
    made = {name: Chain(name, tuple(rules), *hooks[name], "ACCEPT") for name, rules in base.items()}
    made.update({name: Chain(name, tuple(rules)) for name, rules in sorted(chains.items())})
    return Ruleset((Table("ip", "nat", made),))


def tool_seconds(tool: str, text: str, runs: int) -> str:
    path, unshare = shutil.which(tool), shutil.which("unshare")
    if path is None or unshare is None:
        return "not installed"
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        done = subprocess.run([unshare, "-n", path, "--test"], input=text, text=True, capture_output=True)
        if done.returncode:
            return f"failed: {done.stderr.strip().splitlines()[:1]}"
        best = min(best, time.perf_counter() - start)
    return f"{best:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", metavar="FILE", help="write the text to FILE and stop")
    given = parser.parse_args()
    ruleset = kube_proxy(given.services, given.endpoints)
    start = time.perf_counter()
    text = write(ruleset, family=4)
    wrote = time.perf_counter() - start
    if given.write:
        with open(given.write, "w") as file:
            file.write(text)
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best = float("inf")
    for _ in range(given.runs):
        start = time.perf_counter()
        read = parse(text, family=4, origin="expected")
        best = min(best, time.perf_counter() - start)
        assert read == ruleset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = text.count("\n")
    print(f"{given.services} services x {given.endpoints} endpoints: {lines} lines, {len(text) / 1e6:.1f} MB")
    print(f"netlab parse            {best:.2f} s  {best / lines * 1e6:.1f} us/line")
    print(f"netlab write            {wrote:.2f} s")
    print(f"peak memory             {peak / 1024:.0f} MB, of which {before / 1024:.0f} MB held the ruleset before reading")
    print(f"iptables-legacy-restore {tool_seconds('iptables-legacy-restore', text, given.runs)}")
    print(f"iptables-nft-restore    {tool_seconds('iptables-nft-restore', text, given.runs)}")


if __name__ == "__main__":
    main()
