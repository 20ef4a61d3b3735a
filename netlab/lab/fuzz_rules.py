"""Random rulesets on a real kernel: every rule that a packet hits, and what comes out, compared with what netlab predicts.

    generate (rules, packets) --> Bench: Linux's answer   --+--> equal, or a Disagreement, shrunk to its smallest Case
                              \\-> Walk:  netlab's answer --+

Law: a conversation starts from an empty conntrack table; each of its packets (the request, then what the other end answers
to what really arrived) is compared in turn: how often each rule was hit, and every packet that left the router. Where the kernel
draws a number, one of netlab's branches must fit all packets of the conversation. What netlab calls unknown is counted, not
compared.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgspec
from msgspec.structs import replace

from netlab.errors import BugError, InputError
from netlab.lab import fuzz_nft
from netlab.lab.frames import decode, decode_frame, encode, frame, header_length, tcp_numbers
from netlab.lab.fuzz_bench import MACS, ROUTER, WIRES, Bench, model
from netlab.lab.fuzz_generate import RECEIVERS, SENDERS, SETS, TTLS, Maker
from netlab.linux.bridge import Links
from netlab.linux.netns import Device
from netlab.linux.nft import NftRule
from netlab.linux.packet import ACK, FIN, ICMP, ICMPV6, PSH, RST, SYN, TCP, UDP, Packet
from netlab.linux.rules import Rule, Ruleset
from netlab.linux.text import ipset, iptables_save
from netlab.linux.text.nft import read_text, write_text
from netlab.trace.choices import Chooser, TooManyChoices
from netlab.trace.skb import Outcome, Skb, header
from netlab.trace.steps import AnyStep, RuleStep
from netlab.trace.walker import Walk, reply_to

Place = tuple[str, str, int]  # table, chain, number of a rule
MAX_ANSWERS = 6  # packets that the router makes because of one packet
MAX_BRANCHES = 3000
MAX_DRAWN = 30  # branches, once NAT has drawn a port in one that does not fit: they may differ in nothing else


class Sent(msgspec.Struct, frozen=True):
    """A packet of a conversation: where it is put in ("sender", "receiver", "router") and its bytes from the IP header on."""

    at: str
    data: bytes

    @property
    def packet(self) -> Packet:
        found = decode(self.data)
        if found is None:
            raise InputError(f"not an IP packet: {self.data.hex()}")
        if self.at == ROUTER:
            return found
        dev, end = WIRES[self.at]
        return replace(found, src_mac=MACS[end], dst_mac=MACS[dev])


class Case(msgspec.Struct, frozen=True):
    """A ruleset and a conversation, replayable: iptables-save text and ipset save text, or nft's text; packets."""

    family: int
    rules: str
    packets: tuple[Sent, ...]
    sets: str = ""
    why: str = ""

    def dump(self) -> str:
        """The case as JSON text, rules line by line, for a file of regressions."""
        packets = [[sent.at, str(sent.packet), sent.data.hex()] for sent in self.packets]
        lines = {"rules": self.rules.splitlines(), "sets": self.sets.splitlines()}
        return json.dumps({"why": self.why, "family": self.family, **lines, "packets": packets}, indent=1) + "\n"


def read_case(path: Path) -> Case:
    """Read what `Case.dump` wrote."""
    try:
        given = json.loads(path.read_text())
        packets = tuple(Sent(at, bytes.fromhex(data)) for at, _, data in given["packets"])
        rules, sets = ("".join(f"{line}\n" for line in given[key]) for key in ("rules", "sets"))
        return Case(given["family"], rules, packets, sets, given["why"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a case of the fuzzer: {error}") from None


class Seen(msgspec.Struct):
    """What one packet did: how often each rule was hit, and what left the router, with the end of the wire where."""

    hits: dict[Place, int]
    wire: list[tuple[str, Packet]]


class Disagreement(msgspec.Struct, frozen=True):
    """netlab and Linux part: at which packet of the case (from 0), and how."""

    case: Case
    variant: str
    at: int
    difference: str

    def __str__(self) -> str:
        sent = "\n".join(f"  {n}. {s.at}: {_text(s.packet)}" for n, s in enumerate(self.case.packets))
        return f"{self.variant} IPv{self.case.family}, packet {self.at}:\n{self.difference}\n{sent}\n{self.case.rules}"


@dataclass
class FuzzReport:
    """Figures of a run; `disagreements` are shrunk. `unknown` counts packets whose fate netlab leaves open."""

    rulesets: int = 0
    rules: int = 0
    conversations: int = 0
    packets: int = 0
    hits: int = 0
    rules_hit: int = 0
    unknown: int = 0
    unsteady: int = 0
    seconds: float = 0.0
    matches: Counter[str] = field(default_factory=Counter)
    targets: Counter[str] = field(default_factory=Counter)
    fates: Counter[str] = field(default_factory=Counter)
    disagreements: list[Disagreement] = field(default_factory=list)

    def summary(self) -> str:
        """A few lines for people."""
        return (
            f"{self.packets} packets in {self.conversations} conversations through {self.rulesets} rulesets"
            f" ({self.rules} rules, {self.rules_hit} of them hit, {self.hits} hits) in {self.seconds:.0f} s\n"
            f"matches that held: {_counted(self.matches)}\ntargets reached: {_counted(self.targets)}\n"
            f"fates: {_counted(self.fates)}\n"
            f"{self.unknown} packets unknown, {self.unsteady} differed once and not again, "
            f"{len(self.disagreements)} disagreements"
        )


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())


# -- what netlab says --------------------------------------------------------------------------------------------------


class _Differs(Exception):
    """The branch under way does not fit what Linux did."""


class Unknown(Exception):
    """netlab does not know what becomes of the packet."""


class Router(Walk):
    """A walk that stays in the router: what is hit and what leaves is written down, the wires lead nowhere."""

    def __init__(self, links: Links, chooser: Chooser) -> None:
        super().__init__(links.network, links, chooser)
        self.seen = Seen({}, [])
        self.uncounted: frozenset[Place] = frozenset()
        for rules in links.network.namespaces[ROUTER].rulesets.values():
            self.uncounted |= fuzz_nft.uncounted(rules)

    def emit(self, where: str, step: AnyStep) -> None:
        if isinstance(step, RuleStep) and not step.effect.endswith("then no match"):
            place = (step.table, step.chain, step.number)
            if place in self.uncounted:
                return
            self.seen.hits[place] = self.seen.hits.get(place, 0) + 1

    def _cross(self, skb: Skb, device: Device, to: tuple[str, str]) -> Outcome:
        self.seen.wire.append((to[0], skb.packet))
        return Outcome("delivered", "", to[0])

    def draws_ports(self) -> bool:
        """Whether NAT gave a connection a port that netlab cannot know."""
        return any(known[0].random_port for known in self.netfilter.connections.get(ROUTER, {}).values())

    def play(self, sent: Sent) -> Seen:
        """One packet, and the answers that the router makes to it."""
        self.seen = Seen({}, [])
        self._forwarded.clear()
        router = self.network.namespaces[ROUTER]
        if sent.at == ROUTER:
            out = self.local_out(router, sent.packet, "")
        else:
            out = self._receive(Skb(sent.packet, router), WIRES[sent.at][0])
        for _ in range(MAX_ANSWERS):
            if out.kind == "unknown":
                raise Unknown(out.reason)
            if out.netns != ROUTER:
                break
            if out.answer is not None:
                out = self.send_answer(out)
            elif out.kind == "delivered" and out.packet is not None:
                out = self.local_out(router, reply_to(out.packet), "")
            else:
                break
        return self.seen


class Judgement(msgspec.Struct, frozen=True):
    """How many packets of a conversation did in Linux what a branch of netlab's says, and how the next one differs.

    Without a `difference` the rest, if any, cannot be compared: it is addressed to a port that NAT drew.
    """

    agreed: int
    difference: str = ""


def judge(
    links: Links, packets: Sequence[Sent], seen: Sequence[Seen], router: Callable[[Links, Chooser], Router] = Router
) -> Judgement:
    """Compare a conversation with the branch of netlab's that fits it best; `router` makes the router for each branch.

    Raises
    ------
    Unknown
        Where netlab does not say what becomes of a packet.
    """
    best: Judgement | None = None
    drawn = False
    script: list[int] = []
    for tried in range(MAX_BRANCHES):
        chooser = Chooser(script)
        walk = router(links, chooser)
        found = Judgement(len(packets))
        for number, (sent, real) in enumerate(zip(packets, seen, strict=True)):
            predicted = walk.play(sent)
            text = difference(predicted, real)
            if text:
                drawn |= walk.draws_ports()
                found = Judgement(number, text)
                break
            if any(packet.sport_random for _, packet in predicted.wire):
                found = Judgement(number + 1)  # what comes back is addressed to a port that netlab does not know
                break
        if not found.difference:
            return found
        if best is None or found.agreed > best.agreed:
            best = found
        made = chooser.made
        last = len(made) - 1
        while last >= 0 and made[last].index + 1 >= made[last].count:
            last -= 1
        if drawn and (last < 0 or tried >= MAX_DRAWN):
            raise Unknown("NAT chose a port at random")
        if last < 0:
            return best
        script = [choice.index for choice in made[:last]] + [made[last].index + 1]
    raise Unknown("too many branches")


def difference(predicted: Seen, real: Seen) -> str:
    """How netlab's answer about one packet differs from Linux's; "" where it does not."""
    lines = []
    for place in sorted(predicted.hits.keys() | real.hits.keys()):
        ours, theirs = predicted.hits.get(place, 0), real.hits.get(place, 0)
        if ours != theirs:
            lines.append(f"{' '.join(map(str, place))}: netlab {ours}, Linux {theirs}")
    ours_out = sorted(predicted.wire, key=lambda w: w[0])
    real_out = sorted(real.wire, key=lambda w: w[0])
    same = len(ours_out) == len(real_out) and all(_same(a, b) for a, b in zip(ours_out, real_out, strict=True))
    if not same:
        lines += [f"out: netlab {ns} {_text(packet)}" for ns, packet in ours_out]
        lines += [f"out: Linux  {ns} {_text(packet)}" for ns, packet in real_out]
        lines += [] if ours_out else ["out: netlab nothing"]
        lines += [] if real_out else ["out: Linux  nothing"]
    return "\n".join(lines)


def _same(ours: tuple[str, Packet], real: tuple[str, Packet]) -> bool:
    if ours[0] != real[0]:
        return False
    a, b = ours[1], real[1]
    if a.quoted is not None and b.quoted is not None and not _same_quoted(a.quoted, b.quoted):
        return False
    if a.sport_random:
        b = replace(b, sport=a.sport, icmp_id=a.icmp_id)
    plain = {"mark": 0, "sport_random": False, "quoted": None, "df": False}
    return (a.quoted is None) == (b.quoted is None) and replace(a, **plain) == replace(b, **plain)


def _same_quoted(a: Packet, b: Packet) -> bool:
    if a.sport_random:
        b = replace(b, sport=a.sport, icmp_id=a.icmp_id)
    return (a.flow, a.ttl, a.icmp_code) == (b.flow, b.ttl, b.icmp_code)


def _text(packet: Packet) -> str:
    head = header(packet)
    text = f"{head.protocol} {head} {head.flags} ttl {packet.ttl} length {packet.length}"
    if packet.icmp_id:
        text += f" id {packet.icmp_id}"
    return f"{text} about ({_text(packet.quoted)})" if packet.quoted is not None else text


# -- conversations -----------------------------------------------------------------------------------------------------


def opening(maker: Maker) -> Sent:
    """A first packet."""
    at, packet = maker.opening()
    return Sent(at, encode(packet, seq=1000))


def following(maker: Maker, sent: Sequence[Sent], arrived: Sequence[tuple[str, bytes]]) -> Sent | None:
    """What comes after the last packet: an answer of the end where it arrived, an ICMP error about it, or the same again.

    A connection that was reset or closed ends here: how long Linux remembers it is a matter of time.
    """
    packets = [(ns, data[14:], packet) for ns, data in arrived if (packet := decode_frame(data)) is not None]
    last = sent[-1].packet
    if any(packet.protocol == TCP and packet.tcp_flags & (RST | FIN) for _, _, packet in [*packets, ("", b"", last)]):
        return None
    forwarded = [p for p in packets if p[2].protocol == last.protocol and p[2].quoted is None]
    if not forwarded:
        return sent[-1] if last.protocol in (UDP, maker.icmp) and maker.often(30) else None
    where, data, packet = forwarded[-1]
    kind = maker.rng.choices(("reply", "error", "again"), (70, 15, 15))[0]
    if kind == "again":
        return sent[-1]
    if kind == "error" and last.quoted is None:
        return _error_about(maker, where, data, packet)
    return _answer(maker, where, data, packet)


def _answer(maker: Maker, where: str, data: bytes, packet: Packet) -> Sent | None:
    echo = {8: 0, 128: 129}
    back = Packet(packet.dst, packet.src, packet.protocol, ttl=maker.one(TTLS), df=packet.df)
    if packet.protocol in (TCP, UDP):
        fields = {"sport": packet.dport, "dport": packet.sport}
        if packet.protocol == UDP:
            return Sent(where, encode(maker.sized(back, **fields)))
        seq, ack, payload = tcp_numbers(data)
        flags = packet.tcp_flags
        syn = bool(flags & SYN)
        if syn and flags & ACK == 0:
            answer = SYN | ACK if maker.often(90) else RST | ACK
        elif flags & ACK:
            answer = ACK if syn or maker.often(60) else PSH | ACK if maker.often(70) else FIN | ACK
        else:
            return None
        whole = replace(back, **fields, tcp_flags=answer, length=header_length(replace(back, **fields)))
        if answer & PSH:
            whole = replace(whole, length=whole.length + 20)
        return Sent(where, encode(whole, seq=ack or 9000, ack=seq + payload + syn))
    if packet.icmp_type in echo:
        answer_length = packet.length
        answered = replace(back, icmp_type=echo[packet.icmp_type], icmp_id=packet.icmp_id, length=answer_length)
        return Sent(where, encode(answered))
    return None


def _error_about(maker: Maker, where: str, data: bytes, packet: Packet) -> Sent:
    kinds = ((3, 3), (3, 1), (3, 13), (11, 0)) if packet.family == 4 else ((1, 4), (1, 3), (1, 0), (3, 0))
    kind, code = maker.one(kinds)
    group = SENDERS if where == "sender" else RECEIVERS
    src = packet.dst if maker.often(60) else maker.among(group)
    quoted = decode(data[:128], quoted=True)
    error = Packet(src, packet.src, maker.icmp, icmp_type=kind, icmp_code=code, ttl=maker.one(TTLS), quoted=quoted)
    return Sent(where, encode(error, quoted=data[:128]))


def play(bench: Bench, packets: Sequence[Sent]) -> list[Seen]:
    """Send a conversation as it is; what Linux did with each packet."""
    bench.forget()
    return [shoot(bench, sent)[0] for sent in packets]


def shoot(bench: Bench, sent: Sent) -> tuple[Seen, list[tuple[str, bytes]]]:
    """Send one packet: what Linux did with it, and the frames that arrived."""
    packet = sent.packet
    hits, frames = bench.shot(sent.at, sent.data if sent.at == ROUTER else frame(packet, sent.data), packet.dst)
    return Seen(hits, [(ns, found) for ns, data in frames if (found := decode_frame(data)) is not None]), frames


# -- the run -----------------------------------------------------------------------------------------------------------


def fuzz_rulesets(
    count: int,
    seed: int,
    variant: str,
    *,
    families: Sequence[int] = (4, 6),
    conversations: int = 60,
    most_disagreements: int = 5,
    shrink: bool = True,
    progress: Callable[[FuzzReport], None] | None = None,
) -> FuzzReport:
    """Compare random rulesets with the running kernel.

    Parameters
    ----------
    count : int
        Rulesets, alternating between the families.
    seed : int
        The same seed makes the same rulesets and first packets.
    variant : str
        "legacy" or "nft": whose iptables-restore loads them; "nftables": rules of nft itself.
    families : sequence of int
        4, 6.
    conversations : int
        Conversations per ruleset, of one to seven packets each.
    most_disagreements : int
        The run ends after so many.
    shrink : bool
        Whether disagreements are reduced to the smallest ruleset and conversation that still show one.
    progress : callable, optional
        Called with the report after each ruleset.

    Raises
    ------
    InputError
        Where the machine lacks a tool or the permission.
    """
    report = FuzzReport()
    began = time.monotonic()
    with ExitStack() as stack:
        benches = {family: stack.enter_context(Bench(variant, family)) for family in families}
        for number in range(count):
            family = families[number % len(families)]
            rng = Random(f"{seed}/{number}/{family}")
            bench = benches[family]
            maker = fuzz_nft.NftMaker(rng, family) if variant == "nftables" else Maker(rng, family, bench.forgets_recent)
            _one_ruleset(report, bench, maker, conversations, shrink)
            report.seconds = time.monotonic() - began
            if progress is not None:
                progress(report)
            if len(report.disagreements) >= most_disagreements:
                break
    return report


def _one_ruleset(report: FuzzReport, bench: Bench, maker: Maker, conversations: int, shrink: bool) -> None:
    family = maker.family
    if isinstance(maker, fuzz_nft.NftMaker):
        text, sets = write_text(maker.nft_ruleset().nft_tables), ""
    else:
        text, sets = iptables_save.write(maker.ruleset(), family=family), SETS[family]
    links, rules = prepared(text, sets, family)
    bench.load(text, sets)
    report.rulesets += 1
    report.rules += len(rules)
    hit: set[Place] = set()
    for _ in range(conversations):
        bench.forget()
        sent, seen = [opening(maker)], []
        for left in range(maker.rng.randint(0, 6), -1, -1):
            real, frames = shoot(bench, sent[-1])
            seen.append(real)
            more = following(maker, sent, frames) if left else None
            if more is None:
                break
            sent.append(more)
        case = Case(family, text, tuple(sent), sets)
        report.conversations += 1
        try:
            found = judge(links, sent, seen)
            if found.difference:
                found = judge(links, sent, play(bench, sent))
                report.unsteady += not found.difference
        except (Unknown, TooManyChoices):
            report.unknown += len(sent)
            continue
        report.packets += found.agreed + bool(found.difference)
        report.unknown += len(sent) - found.agreed if not found.difference else 0
        for real in seen[: found.agreed]:
            _count(report, rules, real, hit)
        if found.difference:
            if shrink:
                smaller = shrunk(bench, case)
                last = judged(bench, smaller)
                if last is not None and last.difference:
                    case, found = smaller, last
            report.disagreements.append(Disagreement(case, bench.variant, found.agreed, found.difference))
            break  # the rest of this ruleset would say the same
    report.rules_hit += len(hit)


def _count(report: FuzzReport, rules: dict[Place, Rule | NftRule], seen: Seen, hit: set[Place]) -> None:
    for place, times in seen.hits.items():
        rule = rules[place]
        report.hits += times
        hit.add(place)
        if isinstance(rule, NftRule):
            asks, does = fuzz_nft.described(rule)
            report.matches.update(asks)
            report.targets[does] += 1
            continue
        report.matches.update(type(match).__name__ for match in rule.matches)
        report.targets[type(rule.target).__name__ if rule.target is not None else "none"] += 1
    if not seen.wire:
        report.fates["nothing came out"] += 1
    for _, packet in seen.wire:
        error = packet.protocol in (ICMP, ICMPV6) and packet.quoted is not None
        reset = packet.protocol == TCP and packet.tcp_flags & RST
        report.fates["ICMP error" if error else "reset" if reset else "forwarded or answered"] += 1


def prepared(text: str, sets: str, family: int) -> tuple[Links, dict[Place, Rule | NftRule]]:
    """The bench as netlab sees it with these rules, and the rules by their place."""
    if fuzz_nft.is_nft(text):
        ruleset = Ruleset(nft_tables=read_text(text))
        return Links(model(family, ruleset, {})), dict(fuzz_nft.placed(ruleset))
    rules = iptables_save.parse(text, family=family)
    network = model(family, rules, ipset.parse(sets) if sets else {})
    return Links(network), dict(_placed(rules))


def _placed(rules: Ruleset) -> Iterator[tuple[Place, Rule]]:
    for table in rules.tables:
        for chain in table.chains.values():
            for number, rule in enumerate(chain.rules, 1):
                yield (table.name, chain.name, number), rule


def judged(bench: Bench, case: Case) -> Judgement | None:
    """Load a case, send its packets, compare; None where netlab leaves open what becomes of them.

    Raises
    ------
    InputError, BugError
        Where netlab or iptables refuses the rules.
    """
    links, _ = prepared(case.rules, case.sets, case.family)
    bench.load(case.rules, case.sets)
    try:
        return judge(links, case.packets, play(bench, case.packets))
    except (Unknown, TooManyChoices):
        return None


# -- shrinking ---------------------------------------------------------------------------------------------------------


def shrunk(bench: Bench, case: Case) -> Case:
    """Remove packets, rules, matches, policies and chains as long as netlab and Linux still differ."""

    def wrong(candidate: Case) -> bool:
        try:
            found = judged(bench, candidate)
            return found is not None and bool(found.difference)
        except (InputError, BugError):
            return False

    changed = True
    while changed:
        changed = False
        for candidates in (_fewer_packets, _fewer_rules, _fewer_matches, _simpler_chains):
            progress = True
            while progress:
                progress = False
                for candidate in candidates(case):
                    if wrong(candidate):
                        case, progress, changed = candidate, True, True
                        break
    return case


def _fewer_packets(case: Case) -> Iterator[Case]:
    if len(case.packets) > 1:
        tcp = any(sent.packet.protocol == TCP for sent in case.packets)  # a handshake with a hole in it shows something else
        for n in (len(case.packets) - 1,) if tcp else range(len(case.packets) - 1, -1, -1):
            yield replace(case, packets=case.packets[:n] + case.packets[n + 1 :])
    if case.sets and "-set " not in case.rules:
        yield replace(case, sets="")


def _with_rules(case: Case, keep: Callable[[Place, Rule], Rule | None]) -> Case:
    rules = iptables_save.parse(case.rules, family=case.family)
    tables = []
    for table in rules.tables:
        chains = {}
        for name, chain in table.chains.items():
            found = [keep((table.name, name, n), rule) for n, rule in enumerate(chain.rules, 1)]
            chains[name] = replace(chain, rules=tuple(rule for rule in found if rule is not None))
        tables.append(replace(table, chains=chains))
    return replace(case, rules=iptables_save.write(replace(rules, tables=tuple(tables)), family=case.family))


def _fewer_rules(case: Case) -> Iterator[Case]:
    if fuzz_nft.is_nft(case.rules):
        yield from (replace(case, rules=rules) for rules in fuzz_nft.fewer_rules(case.rules))
        return
    places = [place for place, _ in _placed(iptables_save.parse(case.rules, family=case.family))]
    size = len(places)
    while size >= 1:
        for start in range(0, len(places), size):
            gone = set(places[start : start + size])
            yield _with_rules(case, lambda place, rule, gone=gone: None if place in gone else rule)  # type: ignore[misc]
        size //= 2


def _fewer_matches(case: Case) -> Iterator[Case]:
    if fuzz_nft.is_nft(case.rules):
        yield from (replace(case, rules=rules) for rules in fuzz_nft.fewer_statements(case.rules))
        return
    for place, rule in _placed(iptables_save.parse(case.rules, family=case.family)):
        for n in range(len(rule.matches)):
            less = replace(rule, matches=rule.matches[:n] + rule.matches[n + 1 :])
            yield _with_rules(case, lambda p, r, place=place, less=less: less if p == place else r)  # type: ignore[misc]
        if rule.target is not None:
            bare = replace(rule, target=None)
            yield _with_rules(case, lambda p, r, place=place, bare=bare: bare if p == place else r)  # type: ignore[misc]


def _simpler_chains(case: Case) -> Iterator[Case]:
    if fuzz_nft.is_nft(case.rules):
        return
    for line in case.rules.split("\n"):
        if " DROP [" in line:
            yield replace(case, rules=case.rules.replace(line, line.replace(" DROP [", " ACCEPT ["), 1))
        if line.startswith(":") and " - [" in line:
            yield replace(case, rules=case.rules.replace(line + "\n", "", 1))
