"""iptables-save text: read it into a Ruleset, write a Ruleset as it.

Law: parse(write(ruleset)) == ruleset, and write(parse(text)) is what iptables-save 1.8.9 prints for the same rules. Every
spelling that iptables-restore takes is read; whatever it would refuse is an InputError with file and line; a match or target
that is not modelled is kept with its text as UnknownMatch or UnknownTarget. What each option means is in iptables_options.py.

Two readers, one result: `_fast` cuts a line into groups of options ("-m tcp --dport 80") and remembers them, because
kube-proxy repeats the same few groups ten thousand times; any line with something unusual goes to `_slow`, which reads it
word by word as getopt does and is the one that explains what is wrong.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Final, NoReturn

from netlab.errors import InputError, did_you_mean
from netlab.linux.hooks import IPTABLES_TABLES
from netlab.linux.matches import (
    Comment,
    Destination,
    Fragment,
    InInterface,
    Match,
    OutInterface,
    Protocol,
    Source,
    UnknownMatch,
)
from netlab.linux.rules import Chain, Rule, Ruleset, Table
from netlab.linux.targets import Jump, Target, UnknownTarget
from netlab.linux.text.iptables_options import (
    IMPLIED,
    IMPLIED_UNKNOWN,
    MATCHES,
    OTHER_TARGETS,
    TARGETS,
    Bad,
    Context,
    Given,
    Module,
    Option,
    add,
    collect,
    interface,
    masked,
    protocol,
)
from netlab.refs import Ref

BUILTIN: Final = IPTABLES_TABLES  # table -> hook -> priority; the name of a built-in chain is that of its hook

_COMMENT: Final = " -m comment --comment "
_COUNTERS: Final = re.compile(r"\[\d+:\d+\]")
_FAMILY_NAMES: Final = {4: "ip", 6: "ip6"}


def parse(text: str, *, family: int, file: str = "-", origin: str = "observed") -> Ruleset:
    """Read the output of iptables-save (family 4) or ip6tables-save (family 6), or a file for iptables-restore.

    Parameters
    ----------
    text : str
        The whole text; counters (`-c`), comments, blank lines and Windows line ends are accepted.
    family : int
        4 or 6.
    file : str
        The name for error messages and for `Rule.ref`.
    origin : str
        "observed" or "expected".

    Returns
    -------
    Ruleset
        Tables and chains in the order of the text. Each rule's `ref` has the file and the line.

    Raises
    ------
    InputError
        Where iptables-restore would refuse the text, or its end is missing.

    Examples
    --------
    >>> rules = parse("*filter\\n:INPUT DROP [0:0]\\n-A INPUT -i lo -j ACCEPT\\nCOMMIT\\n", family=4)
    >>> chain = rules.table("filter").chains["INPUT"]
    >>> chain.policy, str(chain.rules[0])
    ('DROP', '-i lo -j ACCEPT')
    """
    # Nothing that is made here can be part of a cycle, and the collector would walk all of it again and again.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _Reader(family, file).read(text, origin)
    finally:
        if collecting:
            gc.enable()


def parse_rule(text: str, family: int, ref: Ref | None = None) -> tuple[str, Rule]:
    """Read one `-A CHAIN ...` line; a jump may name any chain.

    >>> chain, rule = parse_rule("-A INPUT -p tcp --syn -j DROP", 4)
    >>> chain, str(rule)
    ('INPUT', '-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP')
    """
    reader = _Reader(family, "-")
    ref = ref or Ref()
    try:
        words, quoted, raw = _words(text)
        if len(words) < 2 or words[0] not in ("-A", "--append"):
            raise Bad(f"not a rule: {text!r}", "expected -A CHAIN and the rule")
        rules = reader.slow(words, quoted, raw, 2, ref)
        if len(rules) != 1:
            raise Bad("the rule names several addresses, which makes several rules", "write one rule for each")
    except Bad as bad:
        raise InputError(bad.what, ref, bad.hint) from None
    return words[1], rules[0]


def write(ruleset: Ruleset, *, family: int, comment_lines: Iterable[str] = ()) -> str:
    """The text that iptables-save prints for these rules, without time stamps and counters.

    Tables in the order of the ruleset; built-in chains first, in the kernel's order, then the others by name.

    >>> print(write(Ruleset((Table("ip", "raw", {"X": Chain("X")}),)), family=4, comment_lines=["node-1"]), end="")
    # node-1
    *raw
    :X - [0:0]
    COMMIT
    """
    lines = [f"# {comment}" for comment in comment_lines]
    for table in ruleset.tables:
        if table.family != _FAMILY_NAMES[family] or table.name not in BUILTIN:
            raise InputError(
                f"table {table.family} {table.name} cannot be written for {_tool(family)}-save",
                hint="write it as nftables text (nft)",
            )
        lines.append(f"*{table.name}")
        chains = sorted_chains(table)
        lines += [f":{chain.name} {chain.policy or '-'} [0:0]" for chain in chains]
        for chain in chains:
            lines += [f"-A {chain.name} {text}" if (text := str(rule)) else f"-A {chain.name}" for rule in chain.rules]
        lines.append("COMMIT")
    return "".join([f"{line}\n" for line in lines])


def sorted_chains(table: Table) -> list[Chain]:
    """The chains of an iptables table as iptables-save orders them."""
    order = {hook.value: n for n, hook in enumerate(BUILTIN[table.name])}
    last = len(order)
    return sorted(table.chains.values(), key=lambda chain: (order.get(chain.name, last), chain.name))


def _tool(family: int) -> str:
    return "iptables" if family == 4 else "ip6tables"


class _Table:
    """A table while it is read: chains with their policies (None: regular) and growing rule lists."""

    __slots__ = ("builtin", "chains", "line", "name", "policies")

    def __init__(self, name: str, line: int) -> None:
        self.name = name
        self.line = line
        self.builtin = {hook.value: (hook, priority) for hook, priority in BUILTIN[name].items()}
        self.policies: dict[str, str | None] = {}
        self.chains: dict[str, list[Rule]] = {}


class _Reader:
    """One call of parse(): what it remembers lives as long as the call."""

    def __init__(self, family: int, file: str) -> None:
        self.family = family
        self.file = file
        self.contexts: dict[int | None, Context] = {}
        self.heads: dict[str, tuple[tuple[Match, ...], Context]] = {}
        self.comments: dict[str, tuple[Match]] = {}

    # ---- the file ----------------------------------------------------------------------------------------------------

    def read(self, text: str, origin: str) -> Ruleset:
        if "\r" in text:
            text = text.replace("\r\n", "\n")
        lines = text.split("\n")  # not splitlines(): a comment may hold any other separator
        tables: list[_Table] = []
        table: _Table | None = None
        chains: dict[str, list[Rule]] = {}
        number = 0
        fast = self.fast
        try:
            for number, line in enumerate(lines, 1):
                if line[:3] == "-A " and table is not None and fast(line, number, chains):
                    continue
                word = line.strip()
                if not word or word[0] == "#":
                    if "is incompatible, use 'nft' tool" in word:
                        raise Bad(
                            "iptables-nft-save left a table out, because it holds rules that only nft can print",
                            "dump this node with `nft list ruleset` instead",
                        )
                elif word == "COMMIT":
                    if table is None:
                        raise Bad("COMMIT outside a table", "a table begins with a line such as *nat")
                    self.check(table)
                    table = None
                elif word[0] == "*":
                    if table is not None:
                        raise Bad(f"table {table.name} has no COMMIT before {word}", "the text was cut off; dump it again")
                    table = self.begin(word, number, tables)
                    chains = table.chains
                elif table is None:
                    raise _not_this_text(word, self.family)
                elif word[0] == ":":
                    self.declare(table, word)
                else:
                    self.command(table, word, Ref(self.file, number))
            if table is not None:
                raise Bad(f"table {table.name} has no COMMIT", "the text was cut off; dump it again")
        except Bad as bad:
            self.fail(bad, lines, number, table)
        return Ruleset(tuple(self.finished(t) for t in tables), origin)

    def fail(self, bad: Bad, lines: list[str], number: int, table: _Table | None) -> NoReturn:
        """Turn a Bad into the user's error; a broken last line of a text without COMMIT is a text that was cut off."""
        hint = bad.hint
        rest = any(line.strip() and line[0] != "#" for line in lines[number:])
        while number > 1 and not lines[number - 1].strip():
            number -= 1
        if table is not None and not rest and lines[number - 1].strip() != "COMMIT":
            hint = "the text ends here without COMMIT: it was cut off; dump it again"
        raise InputError(bad.what, Ref(self.file, number), hint) from None

    def begin(self, word: str, number: int, tables: list[_Table]) -> _Table:
        name = word[1:].split()[0] if word[1:].split() else ""
        if name not in BUILTIN:
            raise Bad(f"unknown table {name!r}", did_you_mean(name, BUILTIN) or f"iptables has {', '.join(BUILTIN)}")
        for earlier in tables:
            if earlier.name == name:
                raise Bad(f"table {name} is here twice, first at line {earlier.line}", "give one dump of one node")
        tables.append(_Table(name, number))
        return tables[-1]

    def declare(self, table: _Table, word: str) -> None:
        """`:CHAIN POLICY [packets:bytes]`."""
        parts = word[1:].split()
        if not 2 <= len(parts) <= 3 or (len(parts) == 3 and not _COUNTERS.fullmatch(parts[2])):
            raise Bad(f"not a chain declaration: {word!r}", "expected :CHAIN POLICY [packets:bytes]")
        name, policy = parts[0], parts[1]
        if name in table.chains:
            raise Bad(f"chain {name} is declared twice in table {table.name}")
        self.new_chain(table, name)
        if table.policies[name] is not None:
            if policy not in ("ACCEPT", "DROP", "-"):
                raise Bad(f"policy {policy!r} of chain {name}", "a policy is ACCEPT or DROP")
            table.policies[name] = "ACCEPT" if policy == "-" else policy
        elif policy != "-":
            raise Bad(
                f"chain {name} cannot have a policy",
                f"the built-in chains of table {table.name} are {', '.join(table.builtin)}",
            )

    def new_chain(self, table: _Table, name: str) -> None:
        if len(name.encode()) > 28 or name[0] in "-!":
            raise Bad(f"not a chain name: {name!r}", "a name has 1 to 28 bytes and begins with neither - nor !")
        table.policies[name] = "ACCEPT" if name in table.builtin else None
        table.chains[name] = []

    def rules_of(self, table: _Table, name: str) -> list[Rule]:
        if name not in table.chains:
            if name not in table.builtin:
                raise Bad(
                    f"chain {name} is not declared in table {table.name}",
                    did_you_mean(name, table.chains) or f"declare it with :{name} - [0:0] before its rules",
                )
            self.new_chain(table, name)  # a built-in chain is there without being declared
        return table.chains[name]

    def command(self, table: _Table, line: str, ref: Ref) -> None:
        """A line that is neither a table, a chain nor a comment: `[1:2] -A ...`, and what hand-written files have."""
        counters = _COUNTERS.match(line)
        if counters:
            line = line[counters.end() :].lstrip()
        words, quoted, raw = _words(line)
        command = words[0] if words else ""
        if command in ("-A", "--append", "-N", "--new-chain", "-P", "--policy", "-I", "--insert") and len(words) < 2:
            raise Bad(f"{command} needs a chain")
        match command:
            case "-A" | "--append":
                self.rules_of(table, words[1]).extend(self.slow(words, quoted, raw, 2, ref))
            case "-I" | "--insert":
                at = int(words[2]) if len(words) > 2 and words[2].isdigit() else 1
                rules = self.rules_of(table, words[1])
                if not 1 <= at <= len(rules) + 1:
                    raise Bad(f"-I {words[1]} {at}: the chain has {len(rules)} rules")
                start = 3 if len(words) > 2 and words[2].isdigit() else 2
                for rule in self.slow(words, quoted, raw, start, ref):
                    rules.insert(at - 1, rule)
            case "-N" | "--new-chain":
                if words[1] in table.chains:
                    raise Bad(f"chain {words[1]} is declared twice in table {table.name}")
                self.new_chain(table, words[1])
            case "-P" | "--policy":
                self.rules_of(table, words[1])
                if len(words) != 3 or table.policies[words[1]] is None or words[2] not in ("ACCEPT", "DROP"):
                    raise Bad("-P takes a built-in chain, and ACCEPT or DROP")
                table.policies[words[1]] = words[2]
            case _:
                raise Bad(f"not a line of {_tool(self.family)}-save: {line[:60]!r}", "expected -A CHAIN, :CHAIN or COMMIT")

    def check(self, table: _Table) -> None:
        """Every jump of a finished table leads to a chain of it, and no chain leads back to itself (ip_tables.c)."""
        calls: dict[str, list[tuple[str, Ref | None]]] = {}
        chains, policies = table.chains, table.policies
        for name, rules in chains.items():
            found = [(rule.target.chain, rule.ref) for rule in rules if type(rule.target) is Jump]
            if not found:
                continue
            calls[name] = found
            for callee, ref in found:
                if callee not in chains:
                    hint = did_you_mean(callee, chains) or f"declare it with :{callee} - [0:0]"
                    raise InputError(f"chain {callee}, which {name} jumps to, is not in table {table.name}", ref, hint)
                if policies[callee] is not None:
                    raise InputError(
                        f"chain {name} jumps to the built-in chain {callee}", ref, "only regular chains can be called"
                    )
        done: set[str] = set()
        for start in calls:
            if start in done:
                continue
            path = {start: None}  # the chains that are being called, in order
            stack = [iter(calls[start])]
            while stack:
                for callee, ref in stack[-1]:
                    if callee in path:
                        names = list(path)
                        cycle = " -> ".join([*names[names.index(callee) :], callee])
                        raise InputError(f"chains of table {table.name} call each other in a loop: {cycle}", ref)
                    if callee not in done and callee in calls:
                        path[callee] = None
                        stack.append(iter(calls[callee]))
                        break
                else:
                    stack.pop()
                    done.add(path.popitem()[0])

    def finished(self, table: _Table) -> Table:
        chains = {}
        for name, rules in table.chains.items():
            policy = table.policies[name]
            if policy is None:
                chains[name] = Chain(name, tuple(rules))
            else:
                chains[name] = Chain(name, tuple(rules), *table.builtin[name], policy)
        return Table(_FAMILY_NAMES[self.family], table.name, chains)

    def context(self, number: int | None) -> Context:
        found = self.contexts.get(number)
        if found is None:
            found = self.contexts[number] = Context(self.family, number)
        return found

    # ---- a line, in groups that are remembered -----------------------------------------------------------------------

    def fast(self, line: str, number: int, chains: dict[str, list[Rule]]) -> bool:
        """Read `-A CHAIN [-s ...] [-m ...] [-m comment --comment "..."] [-m ...] [-j ...]`; False: let `slow` do it."""
        pieces = line.split('"')
        comment: tuple[Match, ...] = ()
        if len(pieces) == 3:
            head, text, tail = pieces
            if head[-22:] != _COMMENT or "\\" in text or (tail and tail[0] != " "):
                return False
            found = self.comments.get(text)
            if found is None:
                if len(text.encode()) > 255:
                    return False
                found = self.comments[text] = (Comment(text),)
            comment = found
            space = head.find(" ", 3)
            rules = chains.get(head[3:space])
            head = head[space:-22]
            groups, dash, verdict = tail.rpartition(" -j ")
            if not dash:
                groups = tail
        elif len(pieces) == 1:
            space = line.find(" ", 3)
            if space < 0:
                return False
            rules = chains.get(line[3:space])
            head, dash, verdict = line[space:].rpartition(" -j ")
            if not dash:
                head = line[space:]
            groups = ""
        else:
            return False
        if rules is None:
            return False
        try:
            known = self.heads.get(head)
            if known is None:
                known = self.head(head)
                if known is None:
                    return False
                self.heads[head] = known
            matches, context = known
            matches += comment
            if groups:
                more = context.matches.get(groups)
                if more is None:
                    more = _groups(groups.split(" -m "), context)
                    if more is None:
                        return False
                    context.matches[groups] = more
                matches += more
            target: Target | None = None
            if dash:
                target = context.targets.get(verdict)
                if target is None:
                    target = _verdict(verdict, context)
                    if target is None:
                        return False
                    context.targets[verdict] = target
        except Bad:
            return False
        rules.append(Rule(matches, target, Ref(self.file, number)))
        return True

    def head(self, text: str) -> tuple[tuple[Match, ...], Context] | None:
        """`-s 10.0.0.0/8 ! -i eth0 -p tcp -m mark --mark 0x1`: what the IP header must be, and further groups."""
        parts = text.split(" -m ")
        words = parts[0].split()
        parts[0] = ""
        found: dict[str, Match] = {}
        at, end, negate = 0, len(words), False
        number: int | None = None
        while at < end:
            word = words[at]
            at += 1
            if word == "!" and not negate:
                negate = True
                continue
            if word not in ("-s", "-d", "-i", "-o", "-p") or at == end or word in found:
                return None
            value = words[at]
            at += 1
            if word == "-p":
                wanted = protocol(value)
                if wanted == 0:
                    return None
                found[word] = Protocol(wanted, negate)
                number = None if negate else wanted
            elif "," in value or value == "+":
                return None
            elif word == "-s":
                address, mask = masked(value, self.family)
                if mask == 0:
                    return None
                found[word] = Source(self.family, address & mask, mask, negate)
            elif word == "-d":
                address, mask = masked(value, self.family)
                if mask == 0:
                    return None
                found[word] = Destination(self.family, address & mask, mask, negate)
            else:
                found[word] = (InInterface if word == "-i" else OutInterface)(interface(value), negate)
            negate = False
        if negate:
            return None
        context = self.context(number)
        more = _groups(parts, context)
        if more is None:
            return None
        return tuple([found[word] for word in ("-s", "-d", "-i", "-o", "-p") if word in found]) + more, context

    # ---- a line, word by word ----------------------------------------------------------------------------------------

    def slow(self, words: list[str], quoted: list[bool], raw: list[str], at: int, ref: Ref) -> list[Rule]:
        """The rules that words[at:] make: none for the other family (-4, -6), several for a list of addresses."""
        line = _Line(self.family, words, quoted, raw, at)
        line.read()
        if line.skip:
            return []
        context = Context(self.family, line.protocol)
        rest: list[Match] = [line.fragment] if line.fragment is not None else []
        for extension in line.extensions:
            rest.append(extension if isinstance(extension, UnknownMatch) else extension.module.build(context, extension.given))
        target = line.target if line.target_module is None else line.target_module.module.build(context, line.target_module.given)
        middle = [m for m in (line.indev, line.outdev, line.proto) if m is not None]
        return [
            Rule(tuple([m for m in (src, dst, *middle, *rest) if m is not None]), target, ref)
            for src, dst in product(line.sources, line.destinations)
        ]


def _groups(parts: list[str], context: Context) -> tuple[Match, ...] | None:
    """The matches of `MODULE OPTIONS` groups; None where a group is not complete in itself, or not modelled."""
    if parts[0].strip():
        return None
    found = []
    for part in parts[1:]:
        words = part.split()
        module = MATCHES.get(words[0]) if words else None
        if module is None:
            return None
        given = collect(module.options, words, 1)
        if given is None:
            return None
        found.append(module.build(context, given))
    return tuple(found)


def _verdict(text: str, context: Context) -> Target | None:
    words = text.split()
    if not words:
        return None
    module = TARGETS.get(words[0])
    if module is None:
        return Jump(words[0]) if len(words) == 1 and words[0] not in OTHER_TARGETS else None
    given = collect(module.options, words, 1)
    return None if given is None else module.build(context, given)


class _Extension:
    """A match or target of a line and the options that it was given so far."""

    __slots__ = ("given", "module", "name")

    def __init__(self, name: str, module: Module) -> None:
        self.name = name
        self.module = module
        self.given: Given = {}


_BASE: Final = {
    **dict.fromkeys(("-s", "--source", "--src"), "-s"),
    **dict.fromkeys(("-d", "--destination", "--dst"), "-d"),
    **dict.fromkeys(("-i", "--in-interface"), "-i"),
    **dict.fromkeys(("-o", "--out-interface"), "-o"),
    **dict.fromkeys(("-p", "--protocol", "--proto"), "-p"),
    **dict.fromkeys(("-f", "--fragment"), "-f"),
    **dict.fromkeys(("-m", "--match"), "-m"),
    **dict.fromkeys(("-j", "--jump"), "-j"),
    **dict.fromkeys(("-g", "--goto"), "-g"),
    **dict.fromkeys(("-c", "--set-counters"), "-c"),
    **dict.fromkeys(("-4", "--ipv4"), "-4"),
    **dict.fromkeys(("-6", "--ipv6"), "-6"),
}


class _Line:
    """The words of one rule, read from left to right as iptables' getopt loop does (xshared.c: do_parse)."""

    def __init__(self, family: int, words: list[str], quoted: list[bool], raw: list[str], at: int) -> None:
        self.family = family
        self.words, self.quoted, self.raw, self.at = words, quoted, raw, at
        self.negate = False
        self.skip = False
        self.seen: set[str] = set()
        self.sources: list[Source | None] = [None]
        self.destinations: list[Destination | None] = [None]
        self.indev: InInterface | None = None
        self.outdev: OutInterface | None = None
        self.proto: Protocol | None = None
        self.fragment: Fragment | None = None
        self.extensions: list[_Extension | UnknownMatch] = []
        self.target: Target | None = None
        self.target_module: _Extension | None = None

    @property
    def protocol(self) -> int | None:
        return self.proto.protocol if self.proto is not None and not self.proto.negate else None

    def read(self) -> None:
        while self.at < len(self.words):
            word = self.words[self.at]
            self.at += 1
            if word == "!" and not self.quoted[self.at - 1]:
                if self.negate:
                    raise Bad("two ! in a row")
                self.negate = True
                continue
            if word in _BASE:
                self.base(_BASE[word], word)
            else:
                self.option(word)
            self.negate = False
        if self.negate:
            raise Bad("nothing follows the !")

    def value(self, of: str) -> str:
        if self.at == len(self.words):
            raise Bad(f"{of} needs a value")
        word = self.words[self.at]
        if word == "!" and not self.quoted[self.at]:
            raise Bad(f"! stands after {of}", f"write ! before it: ! {of} ...")
        self.at += 1
        return word

    def base(self, option: str, word: str) -> None:
        if option in self.seen and option != "-m":
            raise Bad(f"{word} is given twice")
        if self.negate and option in ("-m", "-j", "-g", "-c", "-4", "-6"):
            raise Bad(f"{word} cannot be negated")
        self.seen.add(option)
        match option:
            case "-s":
                self.sources = [
                    None if mask == 0 and not self.negate else Source(self.family, value & mask, mask, self.negate)
                    for value, mask in self.addresses(word)
                ]
            case "-d":
                self.destinations = [
                    None if mask == 0 and not self.negate else Destination(self.family, value & mask, mask, self.negate)
                    for value, mask in self.addresses(word)
                ]
            case "-i":
                name = interface(self.value(word))
                self.indev = None if name == "+" and not self.negate else InInterface(name, self.negate)
            case "-o":
                name = interface(self.value(word))
                self.outdev = None if name == "+" and not self.negate else OutInterface(name, self.negate)
            case "-p":
                number = protocol(self.value(word))
                if number == 0 and self.negate:
                    raise Bad("the rule would never match: no packet has no protocol")
                self.proto = Protocol(number, self.negate) if number else None
            case "-f":
                if self.family == 6:
                    raise Bad("-f is not an option of ip6tables", "use -m frag")
                self.fragment = Fragment(self.negate)
            case "-c":
                for counter in (self.value(word), self.value(word)):
                    if not counter.isdigit():
                        raise Bad(f"not a counter: {counter!r}")
            case "-4":
                self.skip = self.skip or self.family != 4
            case "-6":
                self.skip = self.skip or self.family != 6
            case "-m":
                self.match(self.value(word))
            case _:
                if "-j" in self.seen and "-g" in self.seen:
                    raise Bad("-j and -g exclude each other")
                self.jump(self.value(word), option == "-g")

    def addresses(self, word: str) -> list[tuple[int, int]]:
        texts = self.value(word).split(",")
        if len(texts) > 1 and self.negate:
            raise Bad(f"! with several addresses after {word}")
        return [masked(text, self.family) for text in texts]

    def match(self, name: str) -> None:
        module = MATCHES.get(name)
        if module is not None:
            self.extensions.append(_Extension(name, module))
        elif name.startswith("-") or name == "":
            raise Bad("-m needs the name of a match")
        else:
            self.extensions.append(UnknownMatch(name, self.unread()))

    def jump(self, name: str, goto: bool) -> None:
        module = TARGETS.get(name)
        if module is not None and not goto:
            self.target_module = _Extension(name, module)
            return
        text = self.unread() if not goto and self.options_follow() else ""
        self.target = UnknownTarget(name, text) if text or (name in OTHER_TARGETS and not goto) else Jump(name, goto)

    def options_follow(self) -> bool:
        """Whether the words after the name of a target that is not in the table can only be its options."""
        at = self.at + (self.at < len(self.words) and self.words[self.at] == "!")
        if at >= len(self.words) or self.words[at] in _BASE or not self.words[at].startswith("--"):
            return False
        return self.find(self.words[at].partition("=")[0]) is None and not self.implied(self.words[at])

    def unread(self) -> str:
        """The text up to the next option of iptables itself: the options of something that is not modelled."""
        start = self.at
        while self.at < len(self.words):
            word, bare = self.words[self.at], not self.quoted[self.at]
            if bare and word in _BASE:
                break
            if bare and word == "!" and self.at + 1 < len(self.words) and self.words[self.at + 1] in _BASE:
                break
            self.at += 1
        return " ".join(self.raw[start : self.at])

    def loaded(self) -> Iterator[_Extension]:
        """The extensions that the line has loaded, newest first: that is where libxtables looks for an option first."""
        if self.target_module is not None:
            yield self.target_module
        for extension in reversed(self.extensions):
            if isinstance(extension, _Extension):
                yield extension

    def find(self, word: str) -> tuple[_Extension, Option] | None:
        """The extension that an option belongs to; options may be abbreviated as getopt_long(3) allows."""
        for extension in self.loaded():
            if word in extension.module.options:
                return extension, extension.module.options[word]
        if len(word) < 4:
            return None
        for extension in self.loaded():
            keys = {option for spelling, option in extension.module.options.items() if spelling.startswith(word)}
            if len(keys) == 1:
                return extension, keys.pop()
        return None

    def implied(self, word: str) -> bool:
        """Load the match of the protocol when an option follows that nothing else knows."""
        name = IMPLIED.get(self.protocol or 0)
        if name is None or any(isinstance(e, _Extension) and e.name == name for e in self.extensions):
            return False
        if not any(spelling.startswith(word.partition("=")[0]) for spelling in MATCHES[name].options):
            return False
        self.extensions.append(_Extension(name, MATCHES[name]))
        return True

    def option(self, word: str) -> None:
        if not word.startswith("-") or word == "-":
            raise Bad(f"{word!r} is not part of an option", "text with spaces needs double quotes")
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        found = self.find(name)
        if found is None and word.startswith("--"):
            if self.implied(name):
                found = self.find(name)
            elif self.protocol in IMPLIED_UNKNOWN:
                self.at -= 1 + self.negate
                self.extensions.append(UnknownMatch(IMPLIED_UNKNOWN[self.protocol], self.unread()))
                return
        if found is None:
            raise Bad(f"unknown option {name}", self.where(name))
        extension, option = found
        values = [value] if equals else []
        while len(values) < option.values:
            values.append(self.value(name))
        if len(values) > option.values:
            raise Bad(f"{name} takes no value")
        add(extension.given, option, self.negate, tuple(values))

    def where(self, name: str) -> str | None:
        """What would have to stand before an option, so that it is known."""
        if name in ("--dport", "--sport", "--destination-port", "--source-port"):
            return "it needs -p tcp, -p udp or -p sctp before it"
        homes = [f"-m {module}" for module, spec in MATCHES.items() if name in spec.options]
        homes += [f"-j {target}" for target, spec in TARGETS.items() if name in spec.options]
        if homes:
            return f"it needs {' or '.join(homes)} before it"
        known = [spelling for extension in self.loaded() for spelling in extension.module.options]
        return did_you_mean(name, [*known, *(spelling for spelling in _BASE if len(spelling) > 2)])


def _words(line: str) -> tuple[list[str], list[bool], list[str]]:
    """Split a line as iptables-restore does (xshared.c: add_param_to_argv): words, whether each was quoted, as written.

    Only double quotes quote, a backslash escapes inside them alone, and a closing quote ends the word.
    """
    if '"' not in line:
        words = line.split()
        return words, [False] * len(words), words
    words, quoted, raw = [], [], []
    at, end = 0, len(line)
    while at < end:
        if line[at] in " \t\r":
            at += 1
            continue
        start = at
        while at < end and line[at] not in ' \t\r"':
            at += 1
        text = line[start:at]
        is_quoted = at < end and line[at] == '"'
        if is_quoted:
            at += 1
            chars = []
            while at < end and line[at] != '"':
                if line[at] == "\\":
                    at += 1
                chars.append(line[at : at + 1])
                at += 1
            if at >= end:
                raise Bad(f"unterminated quote: {line[start : start + 40]}", 'a text in quotes ends with "')
            text += "".join(chars)
            at += 1
        words.append(text)
        quoted.append(is_quoted)
        raw.append(line[start:at])
    return words, quoted, raw


def _not_this_text(word: str, family: int) -> Bad:
    """What to say about a text that does not begin with a table."""
    expected = f"expected the output of {_tool(family)}-save, which begins with a table such as *nat"
    if word.startswith(("table ", "add table", "flush ruleset")):
        return Bad("this is nftables text, not iptables-save", "give it as nft text, or dump with iptables-save")
    if word.startswith("Chain "):
        return Bad(f"this is the output of {_tool(family)} -L, which lacks parts of the rules", f"dump with {_tool(family)}-save")
    if word.startswith(("-P ", "-N ", "-A ")):
        return Bad("a rule outside a table", f"{expected}; {_tool(family)} -S does not say which table it printed")
    if word.startswith("create "):
        return Bad("this is the output of ipset save, not iptables-save", "give it as ipset text")
    return Bad(f"not {_tool(family)}-save text: {word[:60]!r}", expected)
