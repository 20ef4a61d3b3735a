"""Rules as they stand in a lab now, against those that it was made of: somebody may have put one in by hand.

Law: a rule is netlab's if its chain holds the same words in the same order; it keeps netlab's number then. Any other has the
number that the kernel gives it, negative, so that it is never taken for one of netlab's.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from netlab.lab.host import Lab
from netlab.lab.kernel_trace import Rule
from netlab.lab.rulepath import Observed, rule_text
from netlab.lab.weave import align
from netlab.linux.network import Network
from netlab.linux.text import iptables_save


class Reread(msgspec.Struct):
    """The rules of some nodes: what the kernel's number is to netlab, and the words of those that are not netlab's."""

    network: Network
    family: int
    numbers: dict[tuple[str, str, str, int], int] = {}
    texts: dict[tuple[str, str, str, int], str] = {}

    def text(self, where: str, rule: Rule) -> str:
        """What a rule says; `rule` with netlab's number, or a negative one."""
        strange = self.texts.get((where, *rule))
        return strange if strange is not None else rule_text(self.network, where, self.family, rule)

    def in_ours(self, found: Observed) -> Observed:
        """What was observed, with netlab's numbers."""

        def ours(where: str, rule: Rule) -> Rule:
            table, chain, number = rule
            return table, chain, self.numbers.get((where, *rule), number)

        rules = {ns: [tuple(ours(ns, rule) for rule in rules) for rules in made] for ns, made in found.rules.items()}
        counted = {(ns, *ours(ns, (table, chain, n))): count for (ns, table, chain, n), count in found.counted.items()}
        return msgspec.structs.replace(found, rules=rules, counted=counted)


def reread(lab: Lab, network: Network, nodes: Iterable[str], family: int, variant: str) -> Reread:
    """Read the iptables rules of nodes again.

    Parameters
    ----------
    lab : Lab
        Made from `network`.
    nodes : iterable of str
        Which.
    family : int
        4 or 6.
    variant : str
        "legacy" or "nft".
    """
    found = Reread(network, family, {}, {})
    tool = f"{'iptables' if family == 4 else 'ip6tables'}-{variant}-save"
    for node in nodes:
        compared(found, node, lab.run(node, tool))
    return found


def compared(found: Reread, node: str, saved: str) -> None:
    """Take in what iptables-save says of a node."""
    ruleset = found.network.namespaces[node].rulesets.get(found.family)
    for table in iptables_save.parse(saved, family=found.family, file=node).tables:
        mine = ruleset.table(table.name) if ruleset is not None else None
        for name, chain in table.chains.items():
            said = [str(rule) for rule in mine.chains[name].rules] if mine is not None and name in mine.chains else []
            holds = [str(rule) for rule in chain.rules]
            if said == holds:
                continue
            for i, j in align(said, holds, lambda a, b: a == b):
                if j is not None:
                    number = i + 1 if i is not None else -(j + 1)
                    found.numbers[node, table.name, name, j + 1] = number
                    if i is None:
                        found.texts[node, table.name, name, number] = f"-A {name} {holds[j]}".rstrip()
