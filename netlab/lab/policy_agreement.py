"""Two ways to one answer: what the walked rules did with a connection, and what the policies say of it, held against each other.

    Trace --(steps in cali-fw-, cali-tw- and the chains of policies)--> what the rules did at each end
    Trace --(who sent, what arrived)--> semantics.decide -----------------> what the policies say at each end

Law: dataplane/policy/semantics.py knows no rules, and the rules here are only read off the finished walk; so an error in either
shows. At an end that the packet did not get to nothing is compared, and it is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import msgspec

from netlab.dataplane.policy.index import EGRESS, INGRESS, PolicyIndex
from netlab.dataplane.policy.semantics import Because, Half, decide
from netlab.dataplane.policy.semantics import Flow as Connection
from netlab.kube.objects import Pod
from netlab.lab.rulepath import Place
from netlab.linux.matches import Conntrack
from netlab.linux.netns import NetnsKind
from netlab.linux.network import Network
from netlab.linux.packet import PROTOCOL_NUMBERS
from netlab.linux.rules import Ruleset
from netlab.linux.targets import Drop
from netlab.trace.flows import Flow
from netlab.trace.policysteps import Asked, connection, enforces
from netlab.trace.query import Tracer
from netlab.trace.steps import Branch, Decapsulated, Delivered, Dropped, Encapsulated, Hop, RuleStep, Trace

# The chains of Felix's that judge what a workload or host sends, and what it is sent (felix/rules/rule_defs.go)
_CHAINS = {"cali-fw-": EGRESS, "cali-th-": EGRESS, "cali-po-": EGRESS, "cali-go-": EGRESS, "cali-pro-": EGRESS}
_CHAINS |= {"cali-tw-": INGRESS, "cali-fh-": INGRESS, "cali-pi-": INGRESS, "cali-gi-": INGRESS, "cali-pri-": INGRESS}
_OF_ENDS = ("cali-fw-", "cali-tw-", "cali-fh-", "cali-th-")
CHAINS = tuple(_CHAINS)
_OF_POLICIES = ("cali-pi-", "cali-po-")


class Walked(msgspec.Struct, frozen=True):
    """What the rules did in one direction, "allowed" or "denied"; the last rule that was hit there, and the last of a policy."""

    did: str
    last: RuleStep
    of_policy: RuleStep | None = None


class Parting(msgspec.Struct, frozen=True):
    """A flow at one end of which the rules did not do what the policies say, or another rule did it."""

    flow: Flow
    direction: str
    rules: str  # what the walked rules did: "allowed", "denied", "" where they were not asked and should have been
    says: str
    why: str
    last: str  # the last rule that was hit there

    def __str__(self) -> str:
        return (
            f"{self.flow}\n  rules     {self.direction} {self.rules or 'not asked'}: {self.last}\n"
            f"  policies  {self.direction} {self.says}: {self.why}"
        )


class Uncounted(msgspec.Struct, frozen=True):
    """A rule that drops: how many flows must end there by netlab's account, and how many packets Linux counted."""

    place: Place
    flows: int
    packets: int

    def __str__(self) -> str:
        node, table, chain, number = self.place
        return f"{node}: -t {table} -A {chain} rule {number} drops: netlab {self.flows} flows, Linux {self.packets} packets"


class Drops(msgspec.Struct):
    """Where flows are denied: the rules at which flows must end (one branch), and those at which they may (of several).

    A flow that was denied is one that did not come in time; that the rule has counted its packet is the proof.
    """

    must: Counter[tuple[int, Place]] = msgspec.field(default_factory=Counter)
    may: set[tuple[int, Place]] = msgspec.field(default_factory=set)

    def add(self, trace: Trace) -> None:
        """Take in a flow that was sent."""
        family = 6 if ":" in trace.destination.ip else 4
        for branch in trace.branches:
            back = branch.reply.hops if branch.reply is not None else ()  # where the node knows no connection it dies as INVALID
            for hop in (*branch.hops, *back):
                ended = _denied(hop)
                if ended is not None:
                    place = (family, (hop.where, ended.table, ended.chain, ended.number))
                    self.may.add(place)
                    if len(trace.branches) == 1:
                        self.must[place] += 1

    def compare(self, hit: Mapping[tuple[int, Place], int], dropping: Collection[tuple[int, Place]]) -> list[Uncounted]:
        """Rules that counted fewer packets than flows ended there, and rules at which none should have ended.

        Parameters
        ----------
        hit : mapping
            What Linux counted, by family and place.
        dropping : collection
            The rules of the chains of policies that drop.
        """
        short = [Uncounted(p, n, hit.get((f, p), 0)) for (f, p), n in sorted(self.must.items()) if hit.get((f, p), 0) < n]
        beyond = [Uncounted(p, 0, hit[f, p]) for f, p in sorted(dropping) if (f, p) in hit and (f, p) not in self.may]
        return short + beyond


def _denied(hop: Hop) -> RuleStep | None:
    """The rule of a policy's or workload's chain at which the packet was dropped in this namespace."""
    last: RuleStep | None = None
    for step in hop.steps:
        if isinstance(step, RuleStep):
            last = step if step.chain.startswith(CHAINS) else None
        elif isinstance(step, Dropped) and last is not None:
            return last
    return None


def dropping(network: Network) -> frozenset[tuple[int, Place]]:
    """The rules of the chains of workloads and policies that drop, by family and place.

    But for those that drop INVALID packets: on a busy machine a SYN is sent again, the first reset ends the connection, and the
    second is of none.
    """
    return frozenset(
        (family, (node, table.name, chain.name, number))
        for node, space in network.namespaces.items()
        if space.kind is NetnsKind.NODE
        for family, ruleset in space.rulesets.items()
        if isinstance(ruleset, Ruleset)
        for table in ruleset.tables
        for chain in table.chains.values()
        if chain.name.startswith(CHAINS)
        for number, rule in enumerate(chain.rules, 1)
        if isinstance(rule.target, Drop)
        if not any(isinstance(match, Conntrack) for match in rule.matches)
    )


class Agreement(msgspec.Struct):
    """What was compared: halves (one direction at one end) by what both said, those that no packet got to, and partings."""

    halves: Counter[str] = msgspec.field(default_factory=Counter)
    partings: list[Parting] = msgspec.field(default_factory=list)

    def add(self, other: Agreement) -> None:
        """Take in what was found of other flows."""
        self.halves.update(other.halves)
        self.partings += other.partings

    @property
    def compared(self) -> int:
        """How many halves both have judged."""
        return sum(count for what, count in self.halves.items() if "not asked" not in what)


def agreement(tracer: Tracer, flow: Flow, trace: Trace) -> Agreement:
    """Compare every branch of a trace.

    Parameters
    ----------
    tracer : Tracer
        Of a cluster whose policies Calico enforces.
    flow : Flow
        What was asked.
    trace : Trace
        What the tracer answered.
    """
    found = Agreement()
    for branch in trace.branches:
        for what, parting in _compare(tracer, flow, trace, branch):
            found.halves[what] += 1
            if parting is not None:
                found.partings.append(parting)
    return found


def walked(branch: Branch) -> dict[str, Walked]:
    """What the rules did in each direction; one that was not asked is not there.

    A tunnel's packet is the hosts' own: what befalls that is not said of the connection inside.
    """
    found: dict[str, Walked] = {}
    wrapped = False
    for hop in branch.hops:
        which: str | None = None
        for step in hop.steps:
            if isinstance(step, (Encapsulated, Decapsulated)):
                wrapped, which = isinstance(step, Encapsulated), None
            elif wrapped:
                continue
            elif isinstance(step, RuleStep):
                which = next((which for prefix, which in _CHAINS.items() if step.chain.startswith(prefix)), None)
                if which is not None:
                    before = found[which].of_policy if which in found else None
                    found[which] = Walked("allowed", step, step if step.chain.startswith(_OF_POLICIES) else before)
            elif isinstance(step, Dropped) and which is not None:
                found[which] = msgspec.structs.replace(found[which], did="denied")
    return found


def _compare(tracer: Tracer, flow: Flow, trace: Trace, branch: Branch) -> Iterator[tuple[str, Parting | None]]:
    index = tracer.policies
    pod = _source(tracer, trace)
    asked = connection(branch, index, Asked(PROTOCOL_NUMBERS.get(trace.protocol.lower(), 0), pod))
    if asked is None:
        yield "nothing was sent", None
        return
    did = walked(branch)
    decision = decide(index, asked)
    arrived = any(isinstance(step, Delivered) for step in branch.hops[-1].steps)
    for half in (decision.egress, decision.ingress):
        which = half.direction.lower()
        walk = did.get(half.direction)
        rules = walk.did if walk is not None else ""
        itself = asked.source.pod == asked.destination.pod and asked.service is None
        unpoliced = half.because is Because.NO_POD or itself or (half is decision.ingress and _from_its_node(index, asked))
        if not rules and not enforces(index.cluster, asked.source.ip.family):
            yield f"{which} not enforced for this family", None
        elif not rules and unpoliced:
            yield f"{which} {half.because.value}", None
        elif not rules and not arrived:
            yield f"{which} not asked: the packet did not get there", None
        elif walk is not None and rules == half.says.value and _same_rule(walk, half):
            yield f"{which} {rules}", None
        else:
            step = walk.of_policy or walk.last if walk is not None else None
            last = "" if step is None else f"-A {step.chain} rule {step.number} ({step.ref}): {step.rule}"
            yield f"{which} parted", Parting(flow, which, rules, half.says.value, _why(half), last)


def _same_rule(walk: Walked, half: Half) -> bool:
    """Whether the rule that decided was made of the policy's rule that says so; at a tier's end none was."""
    if half.because is Because.TIER_END:
        return walk.last.chain.startswith(_OF_ENDS)
    if half.because is not Because.RULE or half.rule is None or half.policy is None or half.policy.kind == "Profile":
        return True
    return walk.of_policy is not None and walk.of_policy.ref == half.rule.ref


def _from_its_node(index: PolicyIndex, asked: Connection) -> bool:
    """What a host itself sends to a pod of its own is not policed: cali-OUTPUT returns for `-o cali+` (felix/rules/static.go)."""
    source = asked.seen or asked.source
    return asked.destination.pod >= 0 and source.node == index.pods[asked.destination.pod].node_name


def _source(tracer: Tracer, trace: Trace) -> Pod | None:
    return tracer.cluster.pods.get(trace.source.name)


def _why(half: Half) -> str:
    policy = f", {half.policy.title}" if half.policy is not None else ""
    rule = f" rule {half.rule.number}" if half.rule is not None else ""
    tier = f", tier {half.tier}" if half.tier else ""
    return f"{half.because.value}{tier}{policy}{rule}"
