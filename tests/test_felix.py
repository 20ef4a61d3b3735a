"""Felix's rules without any policy: every hash as a real Felix wrote it, the dispatch tree, and who may pass.

The hashes below are those of published dumps of nodes (Calico v3.30); each covers its chain up to the rule, so that one wrong
word before it would change it.
"""

from __future__ import annotations

import pytest

from netlab.dataplane.cni.felix import Endpoint, Felix, Policies, add_rules, hashed, jump, limited_name, mark_clear, rule
from netlab.linux.rules import Ruleset
from netlab.linux.text import iptables_save

KNS, KSA = ("kns.default", True), ("ksa.default.default", False)


def rules(felix: Felix) -> dict[tuple[str, str], list[str]]:
    """(table, chain) -> rules as iptables-save prints them."""
    made = add_rules(Ruleset(), felix)
    return {(table.name, name): [str(r) for r in chain.rules] for table in made.tables for name, chain in table.chains.items()}


BARE = Felix(4)
VXLAN = Felix(4, vxlan=True, tunnels=("vxlan.calico",))
NAT = Felix(4, nat_outgoing=True)
PODS = Felix(4, tuple(Endpoint(f"cali{x}", (KNS, KSA)) for x in ("0d7763386da", "31158f8c502", "31999999999")))

# what, table, chain, number from 1, hash
HASHES = [
    (BARE, "filter", "INPUT", 1, "Cz_u1IQiXIMmKD4c"),
    (BARE, "filter", "FORWARD", 1, "wUHhoiAYhphO9Mso"),
    (BARE, "filter", "FORWARD", 2, "S93hcgKJrXEqnTfs"),
    (BARE, "filter", "FORWARD", 3, "mp77cMpurHhyjLrM"),
    (BARE, "filter", "OUTPUT", 1, "tVnHkvAo15HuiPy0"),
    (BARE, "filter", "cali-FORWARD", 1, "W_vvds1Nw3n9QE2f"),
    (BARE, "filter", "cali-FORWARD", 6, "rnKNH2WxGcRQcIlD"),
    (BARE, "filter", "cali-from-wl-dispatch", 1, "zTj6P0TIgYvgz-md"),
    (BARE, "filter", "cali-to-wl-dispatch", 1, "7KNphB1nNHw80nIO"),
    (BARE, "filter", "cali-wl-to-host", 2, "nSZbcOoG1xPONxb8"),
    (BARE, "raw", "PREROUTING", 1, "6gwbT8clXdHdC1b1"),
    (BARE, "mangle", "POSTROUTING", 1, "O3lYWMrLQYEMJtB5"),
    (BARE, "mangle", "cali-PREROUTING", 4, "Cg96MgVuoPm7UMRo"),
    (BARE, "mangle", "cali-POSTROUTING", 4, "mgxNjIoKySH7TEGH"),
    (BARE, "nat", "cali-POSTROUTING", 2, "nYKhEzDlr11Jccal"),
    (VXLAN, "filter", "cali-INPUT", 2, "EDCNTTxYfggApx8C"),
    (VXLAN, "filter", "cali-INPUT", 7, "5W9XghKma9wuz47x"),
    (VXLAN, "filter", "cali-OUTPUT", 6, "wgnULo2gucg1umsA"),
    (VXLAN, "raw", "cali-PREROUTING", 7, "Jefg6QI5khJcHnVl"),
    (VXLAN, "raw", "cali-OUTPUT", 4, "MGhICIksKDnYMIkW"),
    (VXLAN, "nat", "cali-POSTROUTING", 3, "e9dnSgSVNmIcpVhP"),
    (NAT, "nat", "cali-nat-outgoing", 1, "flqWnvo8yq4ULQLa"),
    (PODS, "filter", "cali-pri-kns.default", 1, "WMSw8BmYOknRHfsz"),
]


@pytest.mark.parametrize(("felix", "table", "chain", "number", "expected"), HASHES)
def test_the_hash_is_felix_s_own(felix: Felix, table: str, chain: str, number: int, expected: str) -> None:
    found = rules(felix)[table, chain][number - 1]
    assert f'-m comment --comment "cali:{expected}"' in found


def test_a_chain_that_nothing_refers_to_is_not_kept() -> None:
    found = rules(BARE)
    assert ("filter", "cali-wl-to-host") in found
    assert ("nat", "cali-wl-to-host") not in found
    assert not any("failsafe" in chain for _, chain in found)


def bare(text: str) -> str:
    """A rule without its comments."""
    words = text.split('-m comment --comment "')
    return " ".join([words[0].strip(), *(part.partition('"')[2].strip() for part in words[1:])]).strip().replace("  ", " ")


def test_dispatch_is_a_shallow_tree() -> None:
    found = rules(PODS)
    assert [bare(r) for r in found["filter", "cali-from-wl-dispatch"]] == [
        "-i cali0d7763386da -g cali-fw-cali0d7763386da",
        "-i cali3+ -g cali-from-wl-dispatch-3",
        "-j DROP",
    ]
    assert [bare(r) for r in found["filter", "cali-to-wl-dispatch-3"]] == [
        "-o cali31158f8c502 -g cali-tw-cali31158f8c502",
        "-o cali31999999999 -g cali-tw-cali31999999999",
        "-j DROP",
    ]


def test_a_pod_without_policies_is_open_but_for_tunnels_of_its_own() -> None:
    found = rules(PODS)
    ways_in = [bare(r) for r in found["filter", "cali-tw-cali0d7763386da"]]
    ways_out = [bare(r) for r in found["filter", "cali-fw-cali0d7763386da"]]
    assert ways_in == [
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-m conntrack --ctstate INVALID -j DROP",
        "-j MARK --set-xmark 0x0/0x30000",
        "-j cali-pri-kns.default",
        "-m mark --mark 0x10000/0x10000 -j RETURN",
        "-j cali-pri-ksa.default.default",
        "-m mark --mark 0x10000/0x10000 -j RETURN",
        "-j DROP",
    ]
    assert ways_out[3:5] == ["-p udp -m multiport --dports 4789 -j DROP", "-p ipencap -j DROP"]
    assert bare(found["filter", "cali-pro-kns.default"][0]) == "-j MARK --set-xmark 0x10000/0x10000"
    assert [bare(r) for r in found["filter", "cali-pri-ksa.default.default"]] == [""]


def test_policies_stand_before_the_profiles() -> None:
    jumps = (rule(mark_clear(0x20000), action=jump("cali-pi-default.x")),)
    endpoint = Endpoint("cali1", (KNS,), Policies(ingress=jumps, chains={"cali-pi-default.x": ()}))
    found = rules(Felix(4, (endpoint,)))
    chain = [bare(r) for r in found["filter", "cali-tw-cali1"]]
    assert chain.index("-m mark --mark 0x0/0x20000 -j cali-pi-default.x") < chain.index("-j cali-pri-kns.default")
    assert found["filter", "cali-pi-default.x"] == []


@pytest.mark.parametrize("family", [4, 6])
def test_iptables_save_reads_it_back(family: int) -> None:
    made = add_rules(Ruleset(), Felix(family, (Endpoint("cali1", (KNS, KSA)),), ipip=True, vxlan=True, nat_outgoing=True))
    text = iptables_save.write(made, family=family)
    assert iptables_save.write(iptables_save.parse(text, family=family, file="x"), family=family) == text


@pytest.mark.parametrize(
    ("prefix", "suffix", "name"),
    [
        ("cali-tw-", "cali0d7763386da", "cali-tw-cali0d7763386da"),
        ("cali-pri-", "ksa.default.default", "cali-pri-ksa.default.default"),
        ("cali-pri-", "ksa.kube-system.coredns", "cali-pri-_u2Tn2rSoAPffvE7JO6"),
    ],
)
def test_names_are_28_characters_at_most(prefix: str, suffix: str, name: str) -> None:
    assert limited_name(prefix, suffix) == name


def test_rules_of_one_text_in_two_chains_have_two_hashes() -> None:
    one, other = hashed("a", [rule(action=jump("x"))]), hashed("b", [rule(action=jump("x"))])
    assert one != other
