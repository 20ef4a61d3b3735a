"""A trace as text: one line per step that a networking person reads without a manual.

    who -> whom      branches in a table      each branch: hop, steps below it      its reply      verdict (exit code)

Law: nothing is cut; every character of the input that a terminal would obey is escaped; colour is decoration, the text is
the same without it. Only what changes is said again: a packet's addresses where they are rewritten, a path where it leaves
that of an earlier branch. Rules are quoted as iptables-save prints them, with their origin. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import groupby
from typing import NamedTuple, assert_never

from netlab.refs import Ref
from netlab.render.chains import (
    Run,
    and_note,
    chain_path,
    count,
    ends,
    jumps,
    led,
    nat_label,
    nat_words,
    policy_words,
    returns,
    runs,
    without_dead_jumps,
    without_rule,
)
from netlab.render.columns import align, clean
from netlab.trace.steps import (
    AnyStep,
    Branch,
    Bridged,
    Conntracked,
    Decapsulated,
    Delivered,
    Dropped,
    Encapsulated,
    Header,
    HookStep,
    Hop,
    IpvsStep,
    MtuStep,
    Natted,
    NeighbourStep,
    NoteStep,
    Party,
    PolicyStep,
    Proxied,
    Received,
    Rejected,
    Reply,
    Routed,
    RuleStep,
    Sent,
    Trace,
    Transmitted,
    UnknownStep,
    Verdict,
    is_nft,
)

Line = list[tuple[str, str]]  # (style, text) from left to right

_CODES = {
    "title": "1",
    "where": "1;36",
    "label": "2",
    "rule": "36",
    "dim": "2",
    "nat": "1;35",
    "good": "32",
    "bad": "1;31",
    "warn": "33",
}  # SGR parameters, ECMA-48
_STYLES = {
    Verdict.DELIVERED: "good",
    Verdict.DROPPED: "bad",
    Verdict.REJECTED: "bad",
    Verdict.PARTIAL: "warn",
    Verdict.UNKNOWN: "warn",
}
_LABEL = 11  # columns of a step's label: "neighbour", "delivered" and a gap
_STEP = "    "
_MARKS = {"both": ("  = ", "good"), "netlab": ("  - ", "bad"), "linux": ("  + ", "warn")}  # in place of _STEP: `netlab lab trace`
_BELOW = _STEP + " " * (_LABEL + 2)


def render(trace: Trace, *, wide: bool = False, color: bool = False) -> str:
    """The whole trace as text, without a final newline.

    Parameters
    ----------
    trace : Trace
    wide : bool
        Add marks, connection states and tuples, MACs, VNIs, TTLs, lengths, rules tried, and every step of the reply.
    color : bool
        Add ANSI colours.
    """
    lines: list[Line] = [_title(trace), [], *_summary(trace.branches)]
    lines += _paths(trace, wide)
    for heading, texts in (("assumptions", trace.assumptions), ("not modelled", trace.not_modelled)):
        if texts:
            lines += [[], [("title", heading)], *([("dim", "  - "), ("", text)] for text in texts)]
    style = _STYLES[trace.verdict]
    lines += [[], [("title", "verdict: "), (style, trace.verdict.value), ("", f" (exit {trace.exit_code})")]]
    return "\n".join(_paint(line, color) for line in lines)


def one_line(trace: Trace) -> str:
    """The trace in one line, for `netlab can`: yes, no, partly or unknown; who to whom; where it arrives or what stops it."""
    head = f"{_party(trace.source, with_port=False)} -> {_party(trace.destination)} ({trace.protocol})"
    delivered = [b for b in trace.branches if b.verdict is Verdict.DELIVERED]
    fates = _fates([b for b in trace.branches if b.verdict is not Verdict.DELIVERED])
    left_out = ""
    if trace.not_modelled:
        more = len(trace.not_modelled) - 1
        left_out = f"  [not modelled: {trace.not_modelled[0]}{f'; and {more} more' if more else ''}]"
    left_out = _unenforced(trace) + left_out
    match trace.verdict:
        case Verdict.DELIVERED:
            return clean(f"yes  {head}: {_endpoints(delivered)}{left_out}")
        case Verdict.DROPPED | Verdict.REJECTED:
            return clean(f"no   {head}: {fates}{left_out}")
        case Verdict.PARTIAL:
            arrived = f"{_share(_total(delivered))} delivered to {_endpoints(delivered)}" if delivered else ""
            return clean(f"partly  {head}: {'; '.join(filter(None, (arrived, fates)))}{left_out}")
        case Verdict.UNKNOWN:
            unknown = _fates([b for b in trace.branches if b.verdict is Verdict.UNKNOWN])
            return clean(f"unknown  {head}: {unknown or fates}{left_out}")
        case _ as never:
            assert_never(never)


def _unenforced(trace: Trace) -> str:
    """`  [not enforced: NetworkPolicy default/deny-all would deny it]`: what policies say where nobody makes it so."""
    steps = [s for b in trace.branches for h in b.hops for s in h.steps if isinstance(s, PolicyStep) and not s.enforced]
    would = list(dict.fromkeys(s.policy or ", ".join(s.selected) for s in steps if s.says == "denied"))
    return f"  [not enforced: {'; '.join(would)} would deny it]" if would else ""


def probability(p: Fraction) -> str:
    """`1/3 (33.3%)`; a fraction with a large denominator as the nearest small one, marked `~`.

    >>> probability(Fraction(1, 3)), probability(Fraction(715827883, 2**31)), probability(Fraction(1))
    ('1/3 (33.3%)', '~1/3 (33.3%)', '1 (100%)')
    """
    return f"{_share(p)} ({100 * float(p):.3g}%)"


def _share(p: Fraction) -> str:
    if p.denominator <= 1000:
        return str(p)
    near = p.limit_denominator(1000)
    if near and abs(near - p) * 10**6 < near:
        return f"~{near}"
    return f"~{float(p):.3g}"


# ---------------------------------------------------------------------------------------------- one line


def _total(branches: Iterable[Branch]) -> Fraction:
    return sum((b.probability for b in branches), Fraction(0))


def _endpoints(branches: Sequence[Branch]) -> str:
    """`2 endpoints, 10.244.0.5:8080 (api-0) 1/2, ...`; one endpoint alone needs no share."""
    shares: dict[str, Fraction] = {}
    for b in branches:
        name = f"{b.endpoint or '?'}{f' ({b.endpoint_name})' if b.endpoint_name else ''}"
        shares[name] = shares.get(name, Fraction(0)) + b.probability
    if len(shares) == 1:
        return next(iter(shares))
    return f"{len(shares)} endpoints, " + ", ".join(f"{name} {_share(p)}" for name, p in shares.items())


def _fates(branches: Sequence[Branch]) -> str:
    """Each way to fail once, with its share where there are several or where it is not certain."""
    shares: dict[str, Fraction] = {}
    for b in branches:
        text = _fate(b)
        shares[text] = shares.get(text, Fraction(0)) + b.probability
    if len(shares) == 1 and _total(branches) == 1:
        return next(iter(shares))
    return "; ".join(f"{_share(p)} {text}" for text, p in shares.items())


def _fate(branch: Branch) -> str:
    """`dropped on node-2 by filter FORWARD rule 3: -A FORWARD ... (iptables-save:41)`."""
    if branch.verdict is Verdict.UNKNOWN:
        return _unknown(branch)
    reply = branch.reply if branch.reply and branch.reply.kind == "reply" and not branch.reply.arrived else None
    whose = ("handshake " if reply.handshake else "reply ") if reply else ""
    for hop in reversed(reply.hops if reply else branch.hops):
        for n in range(len(hop.steps) - 1, -1, -1):
            match hop.steps[n]:
                case Dropped() as last:
                    return f"{whose}dropped on {hop.where}{_by(hop.steps[:n]) or f': {last.reason}{_origin(last.ref)}'}"
                case Rejected() as last:
                    by = _by(hop.steps[:n]) or f": {last.reason}{_origin(last.ref)}"
                    local, _, errno = last.answer.partition("error to the socket: ")
                    answer = last.answer if local else f'"{errno}"'
                    return f"{whose}rejected with {answer} on {hop.where}{by}"
    where = f" on {branch.hops[-1].where}" if branch.hops else ""
    reason = (reply.reason if reply else None) or branch.reason or "no reason known"
    return f"{whose}{branch.verdict.value}{where}: {reason}"


def _unknown(branch: Branch) -> str:
    """What the outcome depends on: the branch's reason, or else the last step that says so."""
    if branch.reason:
        return branch.reason
    hops = (*branch.hops, *(branch.reply.hops if branch.reply else ()))
    steps = [(hop.where, step) for hop in hops for step in hop.steps if isinstance(step, UnknownStep)]
    return f"{steps[-1][1].what}{_origin(steps[-1][1].ref)} on {steps[-1][0]}" if steps else "no reason known"


def _by(before: Sequence[AnyStep]) -> str:
    """What the chains that ran just before a drop or reject say: the deciding rule or the policy; "" where no chain did it."""
    for step in reversed(before):
        match step:
            case HookStep() if step.verdict == "drop" and step.by != "rule":
                return f" by {step.table} {step.chain} {policy_words(step)}"
            case HookStep() if step.verdict == "drop":
                continue
            case RuleStep() if ends(step):
                element = led(before, step)
                by = f", by {element}" if element else ""
                return f" by {step.table} {step.chain} rule {step.number}: {step.matched}{by}{_origin(step.ref)}"
            case _:
                return ""
    return ""


def _origin(ref: Ref | None, whole: bool = False) -> str:
    """` (iptables-save:41)`, or the object where the line is not known; whole: all that is known."""
    if ref is None:
        return ""
    text = ref.object if ref.object and ref.line is None and not whole else str(ref)
    return f" ({text})" if text else ""


def _party(party: Party, with_port: bool = True) -> str:
    name = party.name or party.text or party.ip
    if not with_port or party.port is None or name.endswith(f":{party.port}"):
        return name
    return f"[{name}]:{party.port}" if name.count(":") > 1 else f"{name}:{party.port}"


# ---------------------------------------------------------------------------------------------- head and table


def _title(trace: Trace) -> Line:
    source, destination = trace.source, trace.destination
    line: Line = [("title", f"{_kind(source)}{_party(source, with_port=False)} -> {_kind(destination)}{_party(destination)}")]
    sent = next((s for b in trace.branches for h in b.hops for s in h.steps if isinstance(s, Sent)), None)
    if sent:
        return [*line, ("", f"   {_packet(sent.packet)}")]
    return [*line, ("", f"   {trace.protocol}")]


def _kind(party: Party) -> str:
    if party.kind in ("", "address") or party.name == "internet" or party.name.startswith(f"{party.kind} "):
        return ""
    return f"{party.kind} "


def _summary(branches: Sequence[Branch]) -> Iterator[Line]:
    several = len(branches) > 1
    columns: list[tuple[str, list[str]]] = [
        ("BRANCH", [str(n) for n in range(1, len(branches) + 1)] if several else []),
        ("PROBABILITY", [probability(b.probability) for b in branches] if several or _total(branches) != 1 else []),
        ("VERDICT", [b.verdict.value for b in branches]),
        ("ENDPOINT", [b.endpoint or "" for b in branches]),
        ("NAME", [b.endpoint_name or "" for b in branches]),
        ("SOURCE SEEN", [b.source_seen or "" for b in branches]),
        ("REASON", [_short_reason(b) for b in branches]),
    ]
    used = [(name, cells) for name, cells in columns if any(cells)]
    if not branches:
        return
    verdict = [name for name, _ in used].index("VERDICT")
    head, *rows = align(zip(*([name, *(cell or "-" for cell in cells)] for name, cells in used), strict=True))
    yield [("label", "  " + "  ".join(head))]
    for branch, row in zip(branches, rows, strict=True):
        cells = [(_STYLES[branch.verdict] if n == verdict else "", ("  " if n else "") + cell) for n, cell in enumerate(row)]
        yield [("", "  "), *cells]


def _short_reason(branch: Branch) -> str:
    """The reason without the rule that it quotes, which is printed where it decides: only its comment, or nft's element."""
    reason = branch.reason or ""
    hops = (*branch.hops, *(branch.reply.hops if branch.reply else ()))
    for hop in reversed(hops):
        for rule in reversed(hop.steps):
            short = without_rule(reason, rule) if isinstance(rule, RuleStep) else reason
            if isinstance(rule, RuleStep) and short != reason:
                why = f'"{rule.comment}"' if rule.comment else led(hop.steps, rule) or ", ".join(rule.elements)
                return f"{short} ({why})" if why else short
    return reason


# ---------------------------------------------------------------------------------------------- paths


class _Block(NamedTuple):
    """Steps that are told together (usually one), in the n-th hop, and how they are told (no line at all: nothing new)."""

    hop: int
    steps: tuple[AnyStep, ...]
    lines: list[Line]


class _Shown(NamedTuple):
    """The packet as last printed: its addresses and ports, and what `wide` adds."""

    flow: str
    details: str


class _Seen:
    """What the reader knows by now: per namespace, the tables whose origin was said."""

    def __init__(self) -> None:
        self.tables: dict[str, set[str]] = {}

    def heading(self, hop: Hop, continued: bool = False) -> Line:
        """`node-1 (node)` and, the first time, whether its tables are observed or expected."""
        said = self.tables.setdefault(hop.where, set())
        origins: dict[str, list[str]] = {}
        for step in hop.steps:
            if isinstance(step, HookStep) and step.table not in said:
                said.add(step.table)
                origins.setdefault(step.origin, []).append(step.table)
        line: Line = [("where", f"  {hop.where}"), ("", f" ({hop.kind})" if hop.kind else "")]
        if continued:
            line.append(("dim", ", continued"))
        if origins:
            line.append(("dim", "   tables " + "; ".join(f"{', '.join(tables)}: {origin}" for origin, tables in origins.items())))
        return line


class _Known:
    """A tree of the paths told so far: the blocks that follow a block, each with the branch that told it first."""

    def __init__(self) -> None:
        self.next: dict[tuple[int, str, tuple[AnyStep, ...]], tuple[int, _Known]] = {}

    def shared(self, hops: Sequence[Hop], blocks: Sequence[_Block], number: int) -> tuple[int, int]:
        """How many first blocks an earlier branch has told, and which branch that was (0: none); remembers the rest."""
        here, count, first = self, 0, 0
        for block in blocks:
            key = (block.hop, hops[block.hop].where, block.steps)
            if key in here.next:
                first, here = here.next[key]
                count += 1
            else:
                child = _Known()
                here.next[key] = (number, child)
                here = child
        return count, first


def _paths(trace: Trace, wide: bool) -> Iterator[Line]:
    seen, known = _Seen(), _Known()
    for number, branch in enumerate(trace.branches, 1):
        yield []
        if len(trace.branches) > 1:
            yield from _branch_heading(branch, number, len(trace.branches))
        blocks = _blocks(branch.hops, wide)
        count, earlier = known.shared(branch.hops, blocks, number)
        told = [b for b in blocks[:count] if b.lines]
        if len(told) < 2:  # a reference would be no shorter
            yield from _hops(branch.hops, blocks, seen)
        else:
            anchor = told[-1]
            whole = count == len(blocks)
            up_to = "" if whole else f" up to {branch.hops[anchor.hop].where}, {_anchor(anchor.steps)}"
            yield [("dim", f"  as in branch {earlier}{up_to}")]
            yield from _hops(branch.hops, blocks, seen, count)
        if branch.reply:
            yield from _reply(branch.reply, wide, seen)


def _branch_heading(branch: Branch, number: int, of: int) -> Iterator[Line]:
    to = f" to {branch.endpoint}" if branch.endpoint and branch.verdict is Verdict.DELIVERED else ""
    name = f" ({branch.endpoint_name})" if to and branch.endpoint_name else ""
    yield [
        ("title", f"branch {number} of {of}"),
        ("", f"   {probability(branch.probability)}   "),
        (_STYLES[branch.verdict], branch.verdict.value),
        ("", to + name),
    ]
    if branch.choices:
        yield [("dim", f"  chosen by {'; '.join(branch.choices)}")]


def _hops(hops: Sequence[Hop], blocks: Sequence[_Block], seen: _Seen, skip: int = 0) -> Iterator[Line]:
    """The lines of the blocks from the `skip`-th on, each hop under its heading."""
    last = blocks[skip - 1].hop if skip else -1
    for hop, group in groupby(blocks[skip:], key=lambda b: b.hop):
        lines = [line for block in group for line in block.lines]
        if lines:
            yield seen.heading(hops[hop], continued=hop == last)
            yield from lines


def _reply(reply: Reply, wide: bool, seen: _Seen) -> Iterator[Line]:
    """Tersely: the hops, where NAT was undone or done, where it arrived or died; the hop where it died in full."""
    sent = next((s for h in reply.hops for s in h.steps if isinstance(s, Sent)), None)
    title = "reply" if reply.kind == "reply" else f"{reply.kind} answer"
    yield [("title", f"  {title}"), ("", f"   {_packet(sent.packet)}" if sent else "")]
    marks = {step.seen for hop in reply.hops for step in hop.steps} - {""}
    whole = wide or not marks <= {"both"}
    if whole:
        yield from _hops(reply.hops, _blocks(reply.hops, wide), seen)
    else:
        if reply.hops:
            way = _step("way", " > ".join(hop.where for hop in reply.hops))
            yield _marked([way], "both" if marks else "")[0]
        for hop in reply.hops:
            for step in hop.steps:
                if isinstance(step, Natted):
                    yield _step(nat_label(step), f"on {hop.where}: {nat_words(step)}", "nat")
                elif isinstance(step, Proxied):
                    yield _step("proxied", f"on {hop.where}: {_proxied(step)}", "nat")
    end = reply.hops[-1].where if reply.hops else ""
    if reply.arrived:
        yield _step("arrived", f"at {end}", "good")
    else:
        if not whole and reply.hops:
            blocks = _blocks(reply.hops, wide)
            yield from _hops(reply.hops, [b for b in blocks if b.hop == len(reply.hops) - 1], seen)
        reason = reply.reason or "no reason known"
        rule = next((s for h in reply.hops for s in reversed(h.steps) if isinstance(s, RuleStep)), None)
        where = f"on {end}: " if end and f"on {end}" not in reason else ""
        yield _step("DIED", where + without_rule(reason, rule), "bad")


# ---------------------------------------------------------------------------------------------- steps


def _blocks(hops: Sequence[Hop], wide: bool) -> list[_Block]:
    """The steps of all hops, told in groups: the chains of one hook in which nothing happened are one group."""
    blocks: list[_Block] = []
    shown = _Shown("", "")
    for n, hop in enumerate(hops):
        rule: RuleStep | None = None  # printed last
        quiet: list[Run] = []
        for item in runs(hop.steps, wide):
            if isinstance(item, Run):
                rule = item.rules[-1] if item.rules else rule
                if quiet and (not item.quiet or (item.hook, is_nft(item.table)) != (quiet[0].hook, is_nft(quiet[0].table))):
                    blocks.append(_quiet_block(n, quiet))
                    quiet = []
                if item.quiet and not wide:
                    quiet.append(item)
                else:
                    lines = list(_run_lines(item, wide))
                    blocks.append(_Block(n, item.steps, _marked(lines, item.seen)))
                continue
            if quiet:
                blocks.append(_quiet_block(n, quiet))
                quiet = []
            lines, shown = _lines(item, hop, shown, wide, rule)
            blocks.append(_Block(n, (item,), _marked(lines, item.seen)))
        if quiet:
            blocks.append(_quiet_block(n, quiet))
    return blocks


def _marked(lines: list[Line], seen: str) -> list[Line]:
    """The first line with a mark in its margin."""
    if not lines or not seen:
        return lines
    (style, text), *rest = lines[0]
    mark, mark_style = _MARKS[seen]
    return [[(mark_style, mark), (style, text.removeprefix(_STEP)), *rest], *lines[1:]]


def _quiet_block(hop: int, runs: Sequence[Run]) -> _Block:
    ends = [run.end for run in runs if run.end]
    tried = sum(end.tried for end in ends)
    names = ", ".join(dict.fromkeys(end.table for end in ends))
    chains = ", ".join(dict.fromkeys(end.chain for end in ends))
    steps = tuple(step for run in runs for step in run.steps)
    if not tried:  # empty chains: the hop's heading names their tables
        return _Block(hop, steps, [])
    text = f"{names} {chains}: {count(tried, 'rule')} tried, none decides; {policy_words(ends[0])}"
    return _Block(hop, steps, [_step("rules", text)])


def _run_lines(run: Run, wide: bool) -> Iterator[Line]:
    """The path through the chains in one line, then each rule that did something in full (wide: each rule that matched)."""
    end = run.end
    tried = f" ({count(end.tried, 'rule')} tried)" if end and wide else ""
    ending, style = "", ""
    if end and (end.by != "rule" or not run.rules):
        ending, style = policy_words(end), "bad" if end.verdict == "drop" else ""
    if not run.rules:
        chain = f"{run.table} {end.chain}" if end else run.table
        how = f"{count(end.tried, 'rule')} tried, none decides" if end and end.tried else "no rules"
        yield [*_step("rules", f"{chain}: {how}; "), (style, ending)]
        return
    matched = run.rules if wide or any(rule.seen for rule in run.rules) else without_dead_jumps(run.rules)
    yield [*_step("rules", f"{run.table} {chain_path(matched)}"), (style, f"; {ending}" if ending else ""), ("dim", tried)]
    for rule in run.rules:
        apart = bool(rule.seen) and not run.seen  # Linux and netlab differ among these rules
        by_map = rule in matched and any(element.startswith("@") for element in rule.elements)
        if wide or apart or by_map or rule.seen == "linux" or not (jumps(rule) or returns(rule) or not rule.effect):
            comment = f"  # {rule.comment}" if rule.comment and rule.comment not in rule.rule else ""
            looked = f"; {count(rule.tried, 'rule')} tried" if rule.tried else ""
            more = f"  [{rule.effect or 'count'}{looked}]" if wide else ""
            origin = f" {_origin(rule.ref, wide)}" if rule.ref else ""
            line: Line = [("bad" if ends(rule) else "rule", _BELOW + rule.matched + comment), ("dim", origin + more)]
            yield _marked([line], rule.seen if apart else "")[0]


def _lines(step: AnyStep, hop: Hop, shown: _Shown, wide: bool, rule: RuleStep | None) -> tuple[list[Line], _Shown]:
    """The lines of a step that is no rule, and the packet as the reader knows it afterwards.

    `rule` is the rule that was printed last in this hop: what stops the packet need not quote it again.
    """
    seen_at = _origin(step.ref, whole=True) if wide else ""
    match step:
        case Sent():
            by = "" if step.by.endswith(hop.where) else f"   by {step.by}"
            if not by and _shown(step.packet) == shown:  # what a tunnel device has just wrapped
                return [], shown
            lines = [_step("sent", _packet(step.packet, wide) + by + seen_at), *_inside(step.packet, wide)]
            return lines, _shown(step.packet)
        case Received():
            packet, inside = _changed(step.packet, shown, wide and step.seen != "linux")  # of which the ends alone are kept
            return [_step("in", step.device + packet + seen_at), *inside], _shown(step.packet)
        case Transmitted():
            packet, inside = _changed(step.packet, shown, wide and step.seen != "linux")
            to = f" -> {step.to}" if step.to else ""
            return [_step("out", f"{step.device}{to}{packet}{seen_at}"), *inside], _shown(step.packet)
        case Routed():
            return [_routed(step, wide, seen_at)], shown
        case NeighbourStep():
            return [_neighbour(step, wide, seen_at)], shown
        case Bridged():
            out = "the host" if step.port_out == step.bridge else step.port_out
            came = "the host" if step.port_in == step.bridge else step.port_in
            mac = f", frame to {step.mac}" if wide and step.mac else ""
            note = "" if step.note == f"up to {out}" else and_note(step.note)
            return [_step("bridge", f"{step.bridge}: {came} to {out}{mac}{note}{seen_at}")], shown
        case Conntracked():
            tuples = ", ".join(f"{k} {v}" for k, v in (("original", step.original), ("reply", step.reply)) if v)
            direction = f", {step.direction} direction" if wide and step.direction else ""
            return [_step("conntrack", step.state + direction + (f"; {tuples}" if wide and tuples else "") + seen_at)], shown
        case HookStep() | RuleStep():
            return [line for run in runs([step], wide) if isinstance(run, Run) for line in _run_lines(run, wide)], shown
        case Natted():
            return [_step(nat_label(step), nat_words(step) + seen_at, "nat")], _Shown(step.after, shown.details)
        case IpvsStep():
            return [_ipvs(step, wide, seen_at)], shown
        case Encapsulated():
            head = _step("encap", f"{step.device} wraps it in {_tunnel(step.vni, wide)}{seen_at}", "nat")
            return [head, [("", _BELOW + _packet(step.outer, wide))], *_inside(step.outer, wide)], _shown(step.outer)
        case Decapsulated():
            head = _step("decap", f"{step.device} takes it out of {_tunnel(step.vni, wide)}{seen_at}", "nat")
            return [head, [("", _BELOW + _packet(step.inner, wide))], *_inside(step.inner, wide)], _shown(step.inner)
        case MtuStep():
            fits = "fit" if step.length <= step.mtu else "exceed"
            return [_step("MTU", f"{step.length} bytes {fits} {step.mtu} of {step.device}{and_note(step.note)}{seen_at}")], shown
        case PolicyStep():
            told = step.ref is not None and f"{step.ref.file}:{step.ref.line}" in step.text
            return [_step("policy", step.text + ("" if told else seen_at))], shown
        case NoteStep():
            return [_step("note", step.text + seen_at)], shown
        case Delivered():
            packet, inside = _changed(step.packet, shown, wide)
            assumed = "   (assumed: nothing declares this socket)" if step.assumed else ""
            text = f"to {step.socket}, {step.owner}{packet}{assumed}{seen_at}"
            return [_step("delivered", text, "good"), *inside], _shown(step.packet)
        case Proxied():
            return [_step("proxied", _proxied(step) + seen_at, "nat")], shown
        case Dropped():
            return [_step("DROPPED", _reason(step.reason, step.ref, rule), "bad")], shown
        case Rejected():
            return [_step("REJECTED", f"{_reason(step.reason, step.ref, rule)}; answer: {step.answer}", "bad")], shown
        case UnknownStep():
            return [_step("UNKNOWN", _reason(step.what, step.ref, rule), "warn")], shown
        case _ as never:
            assert_never(never)


def _step(label: str, text: str, style: str = "label") -> Line:
    return [(style, f"{_STEP}{label:<{_LABEL}}"), ("", text)]


def _reason(reason: str, ref: Ref | None, rule: RuleStep | None) -> str:
    """A reason and its origin, without the rule (and its origin) that was printed just above."""
    if rule is None:
        return reason + _origin(ref)
    short = without_rule(reason, rule)
    origin = _origin(ref)
    return short if ref == rule.ref or origin in short else short + origin


def _routed(step: Routed, wide: bool, seen_at: str) -> Line:
    text = step.route
    if not text:
        via, device = (f" via {step.via}" if step.via else ""), (f" dev {step.device}" if step.device else "")
        text = f"{step.destination}{via}{device}"
    if step.type not in ("unicast", "") and not text.startswith(step.type):
        text = f"{step.type} {text}"
    if step.table not in ("main", ""):
        text += f" (table {step.table})"
    if step.source:
        text += f"; source address {step.source}"
    text += and_note(step.note)
    if wide:
        text += f"   [to {step.destination}{'' if step.rule is None else f', ip rule {step.rule}'}]"
    bad = step.type in ("blackhole", "unreachable", "prohibit")
    return _step("route", text + seen_at, "bad" if bad else "label")


def _neighbour(step: NeighbourStep, wide: bool, seen_at: str) -> Line:
    mac = f" is at {step.mac}" if wide and step.mac else ""
    if step.how == "fdb":
        frames = f"frames to {step.mac} go to " if wide and step.mac else ""
        return _step("fdb", f"{step.device}: {frames}tunnel end {step.ip}{f' ({step.owner})' if step.owner else ''}{seen_at}")
    if step.how == "proxy_arp":
        how = f"nobody has it, {step.owner} answers for it (proxy ARP)"
    else:
        how = f"{step.owner} answers ({step.how})" if step.owner else f"{step.how} entry"
    return _step("neighbour", f"{step.ip}{mac} on {step.device}: {how}{seen_at}")


def _proxied(step: Proxied) -> str:
    """`kube-proxy accepts, and opens a second connection to 10.244.1.5:80 (endpoint 2 of 3 of default/api:http, round robin)`."""
    if step.back:
        return "kube-proxy copies the answer into the first connection"
    first = "accepts, and opens a second connection" if step.protocol == "TCP" else "reads it, and opens a second socket"
    does = first if step.attempt == 1 else f"opens another connection (attempt {step.attempt})"
    turn = f"endpoint {step.number} of {step.of} of {step.service}, round robin" if step.of > 1 else f"the one of {step.service}"
    return f"kube-proxy {does} to {step.backend} ({turn})"


def _tunnel(vni: int | None, wide: bool) -> str:
    if vni is None:
        return "IP-in-IP"
    return f"VXLAN, VNI {vni}" if wide else "VXLAN"


def _ipvs(step: IpvsStep, wide: bool, seen_at: str) -> Line:
    """`-a -t 10.96.0.10:80 -r 10.244.0.3:8080 -m -w 1   (chance 1/3; rr: round robin)`."""
    observed = ["observed"] if step.origin == "observed" else []
    if step.action == "no server":
        return _step("IPVS", f"{step.service}   ({', '.join(['no real server takes it', *observed])}){seen_at}", "bad")
    if step.action == "connection":
        why = ["a connection that it knows"]
    else:
        why = [f"chance {step.chance}"] if step.chance else []
        why.append(f"{step.scheduler}: {step.why}")
    head = f"{step.service}; " if wide else ""
    return _step("IPVS", f"{head}{step.rule}   ({'; '.join(why + observed)}){seen_at}", "nat")


def _anchor(steps: Sequence[AnyStep]) -> str:
    """A few words that name a block, for "as in branch 1 up to ..."."""
    last = steps[-1]
    match last:
        case HookStep() | RuleStep() if is_nft(last.table):
            first = steps[0]
            return f"{last.table} {first.chain if isinstance(first, RuleStep) else last.chain}"
        case HookStep() | RuleStep():
            return f"{last.table} {last.hook}"
        case Received() | Transmitted():
            return f"{'in' if isinstance(last, Received) else 'out'} {last.device}"
        case Bridged():
            return f"bridge {last.bridge}"
        case Encapsulated() | Decapsulated():
            return f"{'encap' if isinstance(last, Encapsulated) else 'decap'} {last.device}"
        case Natted():
            return nat_label(last)
        case IpvsStep():
            return f"IPVS {last.service.removeprefix('-A ').partition(' -s ')[0]}"
        case Routed():
            return f"route to {last.destination}"
        case NeighbourStep():
            return f"neighbour {last.ip}"
        case MtuStep():
            return f"MTU of {last.device}"
        case Proxied():
            return f"proxied to {last.backend}"
        case Sent() | Conntracked() | PolicyStep() | NoteStep() | Delivered() | Dropped() | Rejected() | UnknownStep():
            return str(type(last).__struct_config__.tag)
        case _ as never:
            assert_never(never)


# ---------------------------------------------------------------------------------------------- packets


def _packet(header: Header, wide: bool = False) -> str:
    """`TCP SYN  10.244.1.7:32768 > 10.96.0.10:80`; wide: TTL, length, mark, MACs and VNI too."""
    flags = f" {header.flags}" if header.flags else ""
    return f"{header.protocol}{flags}  {header}{f'  {_details(header)}' if wide else ''}"


def _details(header: Header) -> str:
    parts = [f"ttl {header.ttl}", f"length {header.length}"]
    if header.mark:
        parts.append(f"mark {header.mark:#x}")
    if header.src_mac or header.dst_mac:
        parts.append(f"{header.src_mac or '?'} > {header.dst_mac or '?'}")
    if header.vni is not None:
        parts.append(f"vni {header.vni}")
    return f"[{', '.join(parts)}]"


def _shown(header: Header) -> _Shown:
    return _Shown(str(header), _details(header))


def _inside(header: Header, wide: bool, depth: int = 1) -> list[Line]:
    """The packet that a tunnel carries, or that an ICMP error quotes, indented below it, and so on inwards."""
    lines: list[Line] = []
    for label, inner in (("", header.inner), ("about  ", header.quoted)):
        if inner:
            lines.append([("", _BELOW + "  " * depth + label + _packet(inner, wide))])
            lines += _inside(inner, wide, depth + 1)
    return lines


def _changed(header: Header, shown: _Shown, wide: bool) -> tuple[str, list[Line]]:
    """What of the packet differs from what was last printed: its addresses, or (wide) only TTL, length, mark or MACs."""
    if str(header) != shown.flow:
        return f"   {_packet(header, wide)}", _inside(header, wide)
    details = _details(header)
    return f"   {details}" if wide and details != shown.details else "", []


def _paint(line: Line, color: bool) -> str:
    """Escape, and colour if asked; spaces at the end of a line go."""
    text = "".join(clean(part) for _, part in line)
    if not color:
        return text.rstrip(" ")
    painted, left = "", len(text.rstrip(" "))
    for style, part in line:
        part = clean(part)[:left]
        left -= len(part)
        bare = part.lstrip(" ")
        code = _CODES.get(style)
        painted += f"{part[: len(part) - len(bare)]}\x1b[{code}m{bare}\x1b[0m" if code and bare else part
    return painted
