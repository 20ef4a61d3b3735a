"""What kube-proxy sends to the kernel when one endpoint of one service has moved, as commands.

Law: the size of an update is part of its cost. iptables mode sends KUBE-SERVICES whole every time, and of the chains of services
those that have changed (KEP-3453, Kubernetes 1.26 and later); nftables and IPVS modes send what has changed. What runs is
what the kernel accepts: a refused command is an error.
"""

from __future__ import annotations

import re
from typing import Final

from netlab.bench.site import NODE
from netlab.linux.network import Network
from netlab.linux.nft import NftTable
from netlab.linux.rules import Table
from netlab.linux.sets import IpSet
from netlab.linux.text.ipvsadm import write_save
from netlab.linux.text.nft_words import rule_text

Command = tuple[list[str], str]  # argv, input
MOST_CHAINS: Final = 12_000  # of a single transaction of nft: some 6,000 services with one endpoint
A_PART: Final = 2_000  # chains of each of several transactions
_CHAIN: Final = re.compile(r"^\tchain .*?^\t}\n", re.DOTALL | re.MULTILINE)

_ALWAYS: Final = {  # pkg/proxy/iptables/proxier.go syncProxyRules: chains that every restore holds
    "nat": ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"),
    "filter": ("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL"),
}


def commands(before: Network, after: Network, variant: str) -> list[Command]:
    """What leads from the rules of one network to those of the other; `variant` of iptables is "legacy" or "nft"."""
    old, new = before.namespaces[NODE], after.namespaces[NODE]
    made: list[Command] = []
    if old.ipvs:
        text = "".join(_set_lines(old.sets[name], new.sets[name]) for name in old.sets)
        if text:
            made.append((["ipset", "restore"], text))
        was, now = (write_save(netns.ipvs).splitlines(keepends=True) for netns in (old, new))
        added, gone = set(now) - set(was), set(was) - set(now)
        text = "".join([line for line in now if line in added] + [_delete(line) for line in was if line in gone])
        return [*made, (["ipvsadm", "-R"], text)]
    rules, target = old.rulesets[4], new.rulesets[4]
    if rules.nft_tables:
        return [(["nft", "-f", "-"], _nft(rules.nft_tables[0], target.nft_tables[0]))]
    text = "".join(_restore(one, two) for one, two in zip(rules.tables, target.tables, strict=True) if one.name in _ALWAYS)
    return [([f"iptables-{variant}-restore", "-w", "5", "--noflush", "--counters"], text)]


def transactions(text: str) -> list[str]:
    """A table of nft in as many texts as the kernel takes in reasonable time.

    Every service's endpoints are an anonymous map, and within a transaction binding one walks over all that the transaction has
    done before (nf_tables_api.c __nft_set_trans_bind): the time of a single transaction grows with the square of the services.
    """
    chains = _CHAIN.findall(text)
    if len(chains) <= MOST_CHAINS:
        return [text]
    table = text.partition(" {\n")[0] + " {\n"
    first = _CHAIN.sub(lambda found: "\n".join(_empty(found.group(0))), text)
    return [first, *(table + "".join(chains[n : n + A_PART]) + "}\n" for n in range(0, len(chains), A_PART))]


def _empty(chain: str) -> list[str]:
    head, *rest = chain.splitlines()
    return [head, *(line for line in rest if line.startswith("\t\ttype ")), "\t}\n"]


def _restore(old: Table, new: Table) -> str:
    always = _ALWAYS[old.name]
    changed = [name for name, chain in new.chains.items() if name in always or chain != old.chains.get(name)]
    gone = [name for name in old.chains if name not in new.chains]
    lines = [f"*{old.name}", *(f":{name} - [0:0]" for name in [*changed, *gone])]
    for name in changed:
        lines += [f"-A {name} {rule}".rstrip() for rule in new.chains[name].rules]
    lines += [f"-X {name}" for name in gone]
    return "\n".join([*lines, "COMMIT", ""])


def _nft(old: NftTable, new: NftTable) -> str:
    where = f"{old.family} {old.name}"
    changed = [name for name, chain in new.chains.items() if chain != old.chains.get(name)]
    lines = [f"add chain {where} {name}" for name in changed if name not in old.chains]
    lines += [f"flush chain {where} {name}" for name in changed]
    lines += [f"add rule {where} {name} {rule_text(rule, new)}" for name in changed for rule in new.chains[name].rules]
    gone = [name for name in old.chains if name not in new.chains]
    lines += [f"flush chain {where} {name}" for name in gone] + [f"delete chain {where} {name}" for name in gone]
    return "\n".join([*lines, ""])


def _set_lines(old: IpSet, new: IpSet) -> str:
    was, now = ({str(entry): None for entry in each.entries} for each in (old, new))
    lines = [f"add {new.name} {entry}\n" for entry in now if entry not in was]
    return "".join(lines + [f"del {new.name} {entry}\n" for entry in was if entry not in now])


def _delete(line: str) -> str:
    """`-a -u VIP -r SERVER -m -w 1` -> `-d -u VIP -r SERVER`."""
    words = line.split()
    return " ".join(["-d", *words[1:5]]) + "\n"
