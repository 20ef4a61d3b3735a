"""What Linux did, woven into what netlab says: one path, each step of it marked.

    predicted hops (request, answer, what follows) + rules and frames that Linux showed, by namespace --> the same hops, marked

Law: a step is marked only if Linux shows such steps (rules, frames on devices), and nothing that it showed is left out: what
netlab does not say stands where Linux did it. In the kernel's order where it tells one; a rule that was only counted
(iptables-legacy) stands where the first rule of its table was missed, or behind them. What netlab says beyond the last sign of
Linux is left out, and that is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from netlab.lab.crossings import Crossing, drawn_ends, step_crossings
from netlab.lab.kernel_trace import Rule, begins_pass
from netlab.lab.rulepath import Observed, Path
from netlab.linux.network import Network
from netlab.trace.steps import AnyStep, Branch, Header, Hop, NoteStep, Received, RuleStep, Transmitted

T = TypeVar("T")
RuleText = Callable[[str, Rule], str]
Place = tuple[int, int]  # which hop, which of its steps (-1: before the first)
_BUILTIN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


def woven(branch: Branch, path: Path, found: Observed, network: Network, text: RuleText) -> Branch:
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
        For the kinds of namespaces.
    text : callable
        What a rule says that netlab does not: of a namespace and a rule.

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
        weft.rules(where, found, text)
        if path.crossings is not None:
            weft.crossings(where, found.crossings.get(where, ()))
    if not found.ordered:
        weft.counted(found.counted, text)
    made = weft.hops(lambda where: network.namespaces[where].kind.value)
    there, back, after = made[:first], made[first:second], made[second:]
    if differs(after):
        after = (Hop(after[0].where, after[0].kind, (NoteStep("what the sender says next"),)), *_cut(after))
    else:
        after = ()
    if reply is None:
        return msgspec.structs.replace(branch, hops=(*_cut(there), *after))
    if not _shown(back) and not _shown(made[second:]) and differs(there):
        return msgspec.structs.replace(branch, hops=_cut(there, back=True), reply=None)
    kept = _cut(back)
    if kept != back:
        reply = msgspec.structs.replace(reply, arrived=False, reason="Linux shows no more of it")
    return msgspec.structs.replace(branch, hops=there, reply=msgspec.structs.replace(reply, hops=(*kept, *after)))


def _shown(hops: Iterable[Hop]) -> bool:
    """Whether Linux showed anything of these hops."""
    return any(step.seen in ("both", "linux") for hop in hops for step in hop.steps)


def _cut(hops: Sequence[Hop], back: bool = False) -> tuple[Hop, ...]:
    """Without what netlab says beyond the last sign of Linux, but for the first of it, where they part."""
    steps = [(h, n, step) for h, hop in enumerate(hops) for n, step in enumerate(hop.steps)]
    last = max((k for k, (_, _, step) in enumerate(steps) if step.seen in ("both", "linux")), default=-1)
    at = next((k for k in range(last + 1, len(steps)) if steps[k][2].seen == "netlab"), None)
    if at is None:
        return tuple(hops)
    first = steps[at][2]
    if isinstance(first, RuleStep):
        while at + 1 < len(steps) and _together(first, steps[at + 1][2]):
            at += 1
    h, n, _ = steps[at]
    beyond = " > ".join(dict.fromkeys(hop.where for hop in hops[h:]))
    note = NoteStep(f"Linux shows no more; netlab goes on: {beyond}{', and back' if back else ''}")
    return (*hops[:h], msgspec.structs.replace(hops[h], steps=(*hops[h].steps[: n + 1], note)))


def _together(first: RuleStep, step: AnyStep) -> bool:
    return isinstance(step, RuleStep) and (step.hook, step.table) == (first.hook, first.table)


def differs(hops: Iterable[Hop]) -> int:
    """How many steps are marked as one side's alone."""
    return sum(step.seen in ("netlab", "linux") for hop in hops for step in hop.steps)


def parted(branch: Branch) -> int:
    """How many steps of a woven branch only netlab or only Linux has."""
    return differs((*branch.hops, *(branch.reply.hops if branch.reply is not None else ())))


def align(ours: Sequence[T], theirs: Sequence[T], same: Callable[[T, T], bool]) -> list[tuple[int | None, int | None]]:
    """Both sequences in one order, what is the same side by side: a longest common subsequence.

    >>> align("abd", "acd", lambda a, b: a == b)
    [(0, 0), (None, 1), (1, None), (2, 2)]
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
        elif j < len(theirs) and (i == len(ours) or longest[i][j + 1] >= longest[i + 1][j]):
            found.append((None, j))
            j += 1
        else:
            found.append((i, None))
            i += 1
    return found


class _Weft:
    """Marks on steps of the hops, and steps to put in behind a place."""

    def __init__(self, hops: Sequence[Hop]) -> None:
        self.given = hops
        self.marks: dict[Place, set[str]] = {}
        self.more: dict[Place, list[AnyStep]] = {}
        self.beyond: dict[str, list[AnyStep]] = {}  # of namespaces where netlab has no packet

    def rules(self, where: str, found: Observed, text: RuleText) -> None:
        """Pass by pass, in the kernel's order."""
        if not found.ordered:
            return
        mine = self._passes(where)
        theirs = found.rules.get(where, [])
        behind = self._end(where)
        for n in range(max(len(mine), len(theirs))):
            said = mine[n] if n < len(mine) else []
            did = theirs[n] if n < len(theirs) else ()
            place, hook = ((said[0][0][0], said[0][0][1] - 1), said[0][1].hook) if said else (behind, "")
            strange: list[Rule] = []

            def put(at: Place, hook: str, rules: list[Rule]) -> None:
                for table, chain, number in rules:
                    hook = chain if chain in _BUILTIN else hook
                    text_of = text(where, (table, chain, number))
                    self.put(where, at, RuleStep(hook, table, chain, abs(number), text_of, seen="linux"))
                rules.clear()

            for i, j in align([(r.table, r.chain, r.number) for _, r in said], did, lambda a, b: a == b):
                if i is None and j is not None:
                    strange.append(did[j])
                elif i is not None:
                    here, step = said[i]
                    last = said[i - 1][1].table if i else ""
                    if strange and (j is None or last != strange[0][0] == step.table):
                        put((here[0], here[1] - 1), step.hook, strange)
                    else:
                        put(place, hook, strange)
                    place, hook = here, step.hook
                    self.mark(place, "both" if j is not None else "netlab")
            put(place, hook, strange)

    def counted(self, counted: dict[tuple[str, str, str, int], int], text: RuleText) -> None:
        """By counters: each rule of the walk takes one from its own."""
        left = Counter(counted)
        last: dict[tuple[str, str], tuple[Place, str]] = {}
        unmet: dict[tuple[str, str], tuple[Place, str]] = {}
        for place, where, step in self._steps():
            if isinstance(step, RuleStep) and not step.table.startswith("nft "):
                key = (where, step.table, step.chain, step.number)
                if left[key] > 0:
                    self.mark(place, "both")
                    last[where, step.table] = place, step.hook
                else:
                    self.mark(place, "netlab")
                    unmet.setdefault((where, step.table), ((place[0], place[1] - 1), step.hook))
                left[key] -= 1
        for (where, table, chain, number), count in sorted(left.items()):
            if count > 0:
                place, hook = (last | unmet).get((where, table), (self._end(where), chain))
                hook = chain if chain in _BUILTIN else hook
                times = f"counted {count} times" if count > 1 else "counted"
                rule = text(where, (table, chain, number))
                self.put(where, place, RuleStep(hook, table, chain, abs(number), rule, times, seen="linux"))

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
