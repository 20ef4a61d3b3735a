"""What Linux did, woven into what netlab says: one path, each step of it marked.

    predicted hops (request, answer, what follows) + rules and frames that Linux showed, by namespace --> the same hops, marked

Law: a step is marked only if Linux shows such steps (rules, frames on devices), and nothing that it showed is left out: what
netlab does not say stands where Linux did it. In the kernel's order where it tells one; a rule that was only counted
(iptables-legacy) stands behind the rules of its table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from netlab.lab.crossings import Crossing, drawn_ends, step_crossings
from netlab.lab.kernel_trace import Rule, begins_pass
from netlab.lab.rulepath import Observed, Path, rule_text
from netlab.linux.network import Network
from netlab.trace.steps import AnyStep, Branch, Header, Hop, NoteStep, Received, RuleStep, Transmitted

T = TypeVar("T")
Place = tuple[int, int]  # which hop, which of its steps (-1: before the first)
_BUILTIN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


def woven(branch: Branch, path: Path, found: Observed, network: Network, family: int) -> Branch:
    """A predicted branch with marks, and with what Linux did otherwise.

    Parameters
    ----------
    branch : Branch
        As predicted.
    path : Path
        The same branch with all its packets.
    found : Observed
        What Linux showed.
    network : Network
        For the text of rules.
    family : int
        4 or 6.

    Returns
    -------
    Branch
        Where the packets behind the first answer went another way, they stand at the end of the reply's hops.
    """
    reply = branch.reply
    rest = () if reply is not None and reply.handshake else path.rest
    first, second = len(branch.hops), len(branch.hops) + (len(reply.hops) if reply is not None else 0)
    hops = (*branch.hops, *(reply.hops if reply is not None else ()), *rest)
    weft = _Weft(hops)
    for where in dict.fromkeys([hop.where for hop in hops]) | dict.fromkeys([*found.rules, *found.crossings]):
        weft.rules(where, found, lambda rule, ns=where: rule_text(network, ns, family, rule))  # type: ignore[misc]
        if path.crossings is not None:
            weft.crossings(where, found.crossings.get(where, ()))
    if not found.ordered:
        weft.counted(found.counted, lambda ns, rule: rule_text(network, ns, family, rule))
    made = weft.hops(lambda where: network.namespaces[where].kind.value)
    after = made[second:] if differs(made[second:]) else ()
    if reply is not None:
        note = (Hop(made[second].where, made[second].kind, (NoteStep("what the sender says next"),)),) if after else ()
        reply = msgspec.structs.replace(reply, hops=(*made[first:second], *note, *after))
        return msgspec.structs.replace(branch, hops=made[:first], reply=reply)
    return msgspec.structs.replace(branch, hops=(*made[:first], *after))


def differs(hops: Iterable[Hop]) -> int:
    """How many steps are marked as one side's alone."""
    return sum(step.seen in ("netlab", "linux") for hop in hops for step in hop.steps)


def parted(branch: Branch) -> int:
    """How many steps of a woven branch only netlab or only Linux has."""
    return differs((*branch.hops, *(branch.reply.hops if branch.reply is not None else ())))


def align(ours: Sequence[T], theirs: Sequence[T], same: Callable[[T, T], bool]) -> list[tuple[int | None, int | None]]:
    """Both sequences in one order, what is the same side by side: a longest common subsequence.

    >>> align("abd", "acd", lambda a, b: a == b)
    [(0, 0), (1, None), (None, 1), (2, 2)]
    """
    longest = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i in range(len(ours) - 1, -1, -1):
        for j in range(len(theirs) - 1, -1, -1):
            both = longest[i + 1][j + 1] + 1 if same(ours[i], theirs[j]) else 0
            longest[i][j] = max(both, longest[i + 1][j], longest[i][j + 1])
    found: list[tuple[int | None, int | None]] = []
    i = j = 0
    while i < len(ours) or j < len(theirs):
        if i < len(ours) and j < len(theirs) and same(ours[i], theirs[j]) and longest[i][j] == longest[i + 1][j + 1] + 1:
            found.append((i, j))
            i, j = i + 1, j + 1
        elif i < len(ours) and (j == len(theirs) or longest[i + 1][j] >= longest[i][j + 1]):
            found.append((i, None))
            i += 1
        else:
            found.append((None, j))
            j += 1
    return found


class _Weft:
    """Marks on steps of the hops, and steps to put in behind a place."""

    def __init__(self, hops: Sequence[Hop]) -> None:
        self.given = hops
        self.marks: dict[Place, set[str]] = {}
        self.more: dict[Place, list[AnyStep]] = {}
        self.beyond: dict[str, list[AnyStep]] = {}  # of namespaces where netlab has no packet

    def rules(self, where: str, found: Observed, text: Callable[[Rule], str]) -> None:
        """Pass by pass, in the kernel's order."""
        if not found.ordered:
            return
        mine = self._passes(where)
        theirs = found.rules.get(where, [])
        behind = self._end(where)
        for n in range(max(len(mine), len(theirs))):
            said = mine[n] if n < len(mine) else []
            did = theirs[n] if n < len(theirs) else ()
            place, hook = (said[0][0], said[0][1].hook) if said else (behind, "")
            place = (place[0], place[1] - 1) if said else place
            for i, j in align([(r.table, r.chain, r.number) for _, r in said], did, lambda a, b: a == b):
                if i is not None:
                    place, hook = said[i][0], said[i][1].hook
                    self.mark(place, "both" if j is not None else "netlab")
                elif j is not None:
                    table, chain, number = did[j]
                    hook = chain if chain in _BUILTIN else hook
                    self.put(where, place, RuleStep(hook, table, chain, number, text(did[j]), seen="linux"))

    def counted(self, counted: dict[tuple[str, str, str, int], int], text: Callable[[str, Rule], str]) -> None:
        """By counters: each rule of the walk takes one from its own."""
        left = Counter(counted)
        last: dict[tuple[str, str], tuple[Place, str]] = {}
        for place, where, step in self._steps():
            if isinstance(step, RuleStep) and not step.table.startswith("nft "):
                key = (where, step.table, step.chain, step.number)
                self.mark(place, "both" if left[key] > 0 else "netlab")
                left[key] -= 1
                last[where, step.table] = place, step.hook
        for (where, table, chain, number), count in sorted(left.items()):
            if count > 0:
                place, hook = last.get((where, table), (self._end(where), chain))
                hook = chain if chain in _BUILTIN else hook
                times = f"counted {count} times" if count > 1 else "counted"
                rule = text(where, (table, chain, number))
                self.put(where, place, RuleStep(hook, table, chain, number, rule, times, seen="linux"))

    def crossings(self, where: str, theirs: Sequence[Crossing]) -> None:
        """Frame by frame, in order."""
        drawn = drawn_ends(self.given)
        mine = [(p, c) for p, ns, step in self._steps() if ns == where for c in step_crossings(step, where, drawn)]
        place = next(((p[0], -1) for p, ns, _ in self._steps() if ns == where), (-1, -1))
        for i, j in align([c for _, c in mine], list(theirs), lambda a, b: a.fits(b) or b.fits(a)):
            if i is not None:
                place = mine[i][0]
                self.mark(place, "both" if j is not None else "netlab")
            elif j is not None:
                c = theirs[j]
                header = Header(c.protocol, c.source, c.destination, c.sport or 0, c.dport or 0, c.flags)
                came = Received(c.device, header, seen="linux")
                self.put(where, place, came if c.direction == "in" else Transmitted(c.device, "", header, seen="linux"))

    def mark(self, place: Place, mark: str) -> None:
        self.marks.setdefault(place, set()).add(mark)

    def put(self, where: str, place: Place, step: AnyStep) -> None:
        if place[0] < 0:
            self.beyond.setdefault(where, []).append(step)
        else:
            self.more.setdefault(place, []).append(step)

    def hops(self, kind: Callable[[str], str]) -> tuple[Hop, ...]:
        """The hops with all that was found; namespaces of which netlab says nothing are hops at the end."""
        made = []
        for h, hop in enumerate(self.given):
            steps: list[AnyStep] = [*self.more.get((h, -1), ())]
            for n, step in enumerate(hop.steps):
                marks = self.marks.get((h, n))
                if marks:
                    step = msgspec.structs.replace(step, seen="netlab" if "netlab" in marks else "both")
                steps += [step, *self.more.get((h, n), ())]
            made.append(msgspec.structs.replace(hop, steps=tuple(steps)))
        return (*made, *(Hop(where, kind(where), tuple(steps)) for where, steps in self.beyond.items()))

    def _steps(self) -> Iterable[tuple[Place, str, AnyStep]]:
        for h, hop in enumerate(self.given):
            for n, step in enumerate(hop.steps):
                yield (h, n), hop.where, step

    def _end(self, where: str) -> Place:
        return max((place for place, ns, _ in self._steps() if ns == where), default=(-1, -1))

    def _passes(self, where: str) -> list[list[tuple[Place, RuleStep]]]:
        """The rules of every pass through a namespace, as `predicted_passes` tells them, with their places."""
        found: list[list[tuple[Place, RuleStep]]] = [[]]
        hop = -1
        for place, ns, step in self._steps():
            if ns != where:
                continue
            if place[0] != hop or begins_pass(step, where):
                found.append([])
                hop = place[0]
            if isinstance(step, RuleStep):
                found[-1].append((place, step))
        return [rules for rules in found if rules]
