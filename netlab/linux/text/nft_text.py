"""`nft list ruleset` text: read it into tables, write tables as it.

Law: read(write(tables)) == tables, and write(read(text)) is the text again, as nft 1.0.6 lays it out. What is no text of nft is
an InputError with file and line. A statement that netlab does not know is kept to the end of its rule, and an expression that
it does not know as far as it goes. How words are spelled: nft_words.py. Source: nft(8), "src/scanner.l" for names and numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, NoReturn, TypeVar

from netlab.errors import InputError, did_you_mean
from netlab.linux import nft as n
from netlab.linux.addr import ip
from netlab.linux.hook import Hook
from netlab.linux.nft import Element, Expression, NftChain, NftObject, NftRule, NftSet, NftTable, Statement, Value
from netlab.linux.text import nft_words as words
from netlab.linux.text.nft_check import check_tables
from netlab.linux.text.nft_shapes import TEXT_HOLES, Shapes, collector_off
from netlab.refs import Ref

T = TypeVar("T")
_ReadRule = tuple[tuple[Statement, ...], str, int | None]  # statements, comment, handle

_TOKEN: Final = re.compile(
    r"""
    (?P<space>[ \t\r]+|\\\n)
  | (?P<comment>\#[^\n]*)
  | (?P<quoted>"[^"\n]*")
  | (?P<address>(?:[0-9A-Fa-f]{0,4}:){2,7}(?:\d+\.\d+\.\d+\.\d+|[0-9A-Fa-f]{0,4})(?![\w:])|\d+\.\d+\.\d+\.\d+(?![\w.]))
  | (?P<duration>(?:\d+(?:ms|[wdhms]))+(?!\w))
  | (?P<number>0[xX][0-9A-Fa-f]+(?!\w)|\d+(?!\w))
  | (?P<word>[A-Za-z_](?:[\w/.\\]|-(?=\w)|-)*\*?)
  | (?P<punct>==|!=|<=|>=|<<|>>|[{}()\[\].,;:=<>&|^!/*@\-+$])
    """,
    re.VERBOSE,
)
_DURATION: Final = re.compile(r"(\d+)(ms|[wdhms])")
_SECONDS: Final = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_CUT: Final = "was the text cut off? dump it again: nft list ruleset"
_OBJECTS: Final = ("counter", "quota", "limit", "ct", "synproxy", "secmark", "flowtable", "tunnel")
_HOOKS: Final = {hook.value.lower(): hook for hook in Hook}
# Statements whose meaning netlab does not model: kept to the end of the rule.
_UNKNOWN_STATEMENTS: Final = frozenset({
    "quota", "queue", "tproxy", "synproxy", "dup", "fwd", "flow", "meter", "xt", "last", "reset", "tcp option", "osf",
})  # fmt: skip
_UNKNOWN_EXPRESSIONS: Final = frozenset({
    "exthdr", "hbh", "rt", "rt0", "rt2", "srh", "frag", "dst", "mh", "socket", "osf", "ipsec", "igmp",
})  # fmt: skip
_OPTION_PROTOCOLS: Final = frozenset({"tcp", "ip", "sctp", "dccp"})


def read_text(text: str, file: str = "-") -> tuple[NftTable, ...]:
    """Read the output of `nft list ruleset`, or a file for `nft -f` of the same form.

    Parameters
    ----------
    text : str
        `table FAMILY NAME { ... }` blocks; # comments and `flush ruleset` are accepted.
    file : str
        The name for error messages and for each rule's `ref`.

    Returns
    -------
    tuple of NftTable

    Raises
    ------
    InputError
        For what is no text of nft, ends too early, or refers to chains and sets that are not there.

    Examples
    --------
    >>> table, = read_text("table ip t {\\n\\tchain c {\\n\\t\\tip saddr 10.0.0.0/8 counter drop\\n\\t}\\n}\\n")
    >>> table.chains["c"].rules[0].statements[0]
    Compare(left=Payload(protocol='ip', field='saddr'), op='==', right=PrefixValue(address='10.0.0.0', length=8))
    """
    with collector_off():
        reader = _Reader(text, file)
        try:
            return reader.read()
        except RecursionError:
            reader.bad("nested too deep", "give the output of nft list ruleset")


def read_statements(text: str, family: str, ref: Ref | None = None) -> tuple[Statement, ...]:
    """Read the statements of one rule, as they stand in a table of a family.

    >>> read_statements("ct state new jump services", "ip")[1]
    Verdict(kind='jump', chain='services')
    """
    file = ref.file if ref is not None and ref.file is not None else "-"
    reader = _Reader(text, file, family=family)
    rule = reader.rule()
    return rule.statements


class _Token(NamedTuple):
    kind: str  # word, number, address, duration, quoted, punct, newline, comment, end
    text: str
    line: int
    start: int


def _tokens(text: str, line: int, file: str, last: bool) -> list[_Token]:
    """The tokens of one line, and that of its end."""
    made: list[_Token] = []
    position = 0
    for found in _TOKEN.finditer(text):
        if found.start() != position:
            break
        position = found.end()
        if found.lastgroup == "space":
            line += found[0].count("\n")
        else:
            made.append(_Token(found.lastgroup or "", found[0], line, found.start()))
    if position != len(text):
        shown = text[position:].split("\n", 1)[0][:40]
        hint = 'a text in quotes ends with "' if shown.startswith('"') else "give the output of nft list ruleset"
        raise InputError(f"not a word of nft: {shown!r}", Ref(file, line), hint)
    made.append(_Token("end", "", line, position) if last else _Token("newline", "\n", line, position))
    return made


class _Reader:
    """Recursive descent over the tokens of one text, a line at a time; lines of a known shape are not cut into tokens."""

    def __init__(self, text: str, file: str, first: int = 1, family: str = "ip", sets: dict[str, NftSet] | None = None) -> None:
        self.lines, self.file, self.first = text.split("\n"), file, first
        self.row = -1
        self.family = family
        self.sets: dict[str, NftSet] = {} if sets is None else sets
        self.inside: list[str] = []
        self.rules: Shapes[_ReadRule] = Shapes(TEXT_HOLES, self.whole_rule)
        self.next_line()

    # -- tokens --------------------------------------------------------------------------------------------------------

    def next_line(self) -> None:
        self.row += 1
        while not self.lines[self.row] and self.row + 1 < len(self.lines):
            self.row += 1
        start = self.row
        self.line = self.lines[self.row]
        while self.line.endswith("\\") and self.row + 1 < len(self.lines):
            self.row += 1
            self.line += "\n" + self.lines[self.row]
        self.tokens = _tokens(self.line, self.first + start, self.file, self.row + 1 == len(self.lines))
        self.at = 0

    @property
    def now(self) -> _Token:
        return self.tokens[self.at]

    def ahead(self, count: int) -> _Token:
        return self.tokens[min(self.at + count, len(self.tokens) - 1)]

    def take(self) -> _Token:
        token = self.tokens[self.at]
        if token.kind == "newline":
            self.next_line()
        elif token.kind != "end":
            self.at += 1
        return token

    def bad(self, what: str, hint: str | None = None, token: _Token | None = None) -> NoReturn:
        raise InputError(what, Ref(self.file, (token or self.now).line), hint)

    def unexpected(self, wanted: str) -> NoReturn:
        token = self.now
        if token.kind == "end":
            within = f" within {self.inside[-1]}" if self.inside else ""
            self.bad(f"the text ends{within}, {wanted} is missing", _CUT)
        shown = "the end of the line" if token.kind == "newline" else repr(token.text)
        self.bad(f"{wanted} is expected, not {shown}")

    def is_(self, *texts: str) -> bool:
        return self.now.text in texts and self.now.kind in ("word", "punct")

    def accept(self, *texts: str) -> bool:
        if self.is_(*texts):
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> _Token:
        if not self.is_(text):
            self.unexpected(repr(text))
        return self.take()

    def blank(self) -> None:
        """Skip line ends, semicolons and comments."""
        while self.now.kind in ("newline", "comment") or self.is_(";"):
            self.take()

    def breaks(self) -> None:
        """Skip line ends and comments, within braces of elements."""
        while self.now.kind in ("newline", "comment"):
            self.take()

    def ended(self) -> bool:
        return self.now.kind in ("newline", "end", "comment") or self.is_(";", "}")

    def name(self, what: str) -> str:
        token = self.now
        if token.kind == "quoted":
            self.at += 1
            return token.text[1:-1]
        if token.kind != "word":
            self.unexpected(what)
        self.at += 1
        return token.text

    def quoted(self) -> str:
        if self.now.kind != "quoted":
            self.unexpected("a text in quotes")
        return self.take().text[1:-1]

    def number(self, what: str = "a number") -> int:
        if self.now.kind != "number":
            self.unexpected(what)
        return self.integer()

    def integer(self) -> int:
        """A number as scanner.l reads it, with strtoull of base 0: 0x10 and 010 are not ten."""
        text = self.now.text
        base = 16 if text[:2] in ("0x", "0X") else 8 if text[0] == "0" else 10
        try:
            found = int(text, base) if len(text) <= 40 else 1 << 128
        except ValueError:
            self.bad(f"{text!r} is no number: a 0 in front makes it octal")
        if found >= 1 << 128:
            self.bad(f"{text[:20]}... is too large a number", _CUT)
        self.at += 1
        return found

    def seconds(self) -> int | float:
        token = self.now
        if token.kind == "number":
            return self.integer()
        if token.kind != "duration":
            self.unexpected("a duration")
        self.at += 1
        total = 0
        for count, unit in _DURATION.findall(token.text):
            total += int(count) * (1 if unit == "ms" else _SECONDS[unit] * 1000)
        return total // 1000 if total % 1000 == 0 else total / 1000

    # -- tables --------------------------------------------------------------------------------------------------------

    def read(self) -> tuple[NftTable, ...]:
        tables: dict[tuple[str, str], NftTable] = {}
        set_lines: dict[tuple[str, str, str], int] = {}
        while True:
            self.blank()
            if self.now.kind == "end":
                break
            if self.is_("flush") and self.ahead(1).text == "ruleset":
                self.at += 2
                continue
            start = self.now
            self.accept("add")
            if not self.is_("table"):
                hint = did_you_mean(start.text, ("table",)) or "give the output of nft list ruleset"
                self.bad(f"a table is expected, not {start.text[:40]!r}", hint, start)
            self.take()
            family = self.take().text if self.now.kind == "word" and self.ahead(1).kind in ("word", "quoted") else "ip"
            if family not in words.FAMILIES:
                self.bad(f"unknown family {family!r}", did_you_mean(family, words.FAMILIES), start)
            name = self.name("the name of a table")
            if (family, name) in tables:
                self.bad(f"table {family} {name} is there twice", "give one dump of one node", start)
            tables[family, name] = self.table(family, name, set_lines)
        made = tuple(tables.values())
        check_tables(made, self.file, set_lines)
        return made

    def table(self, family: str, name: str, set_lines: dict[tuple[str, str, str], int]) -> NftTable:
        self.family = family
        self.sets = {}
        self.rules = Shapes(TEXT_HOLES, self.whole_rule)
        self.inside.append(f"table {family} {name}")
        chains: dict[str, NftChain] = {}
        objects: list[NftObject] = []
        comment = ""
        flags: tuple[str, ...] = ()
        self.expect("{")
        while True:
            self.blank()
            token = self.now
            if self.accept("}"):
                break
            if self.accept("comment"):
                comment = self.quoted()
            elif self.accept("flags"):
                flags = self.flags()
            elif self.accept("set", "map"):
                line = token.line
                made = self.set_(token.text == "map")
                if made.name in self.sets:
                    self.bad(f"set {made.name} is there twice", "give one dump of one node", token)
                self.sets[made.name] = made
                self.rules = Shapes(TEXT_HOLES, self.whole_rule)  # how a rule is read depends on the types of sets
                set_lines[family, name, made.name] = line
            elif self.accept("chain"):
                chain = self.chain()
                if chain.name in chains:
                    self.bad(f"chain {chain.name} is there twice", "give one dump of one node", token)
                chains[chain.name] = chain
            elif token.kind == "word" and token.text in _OBJECTS:
                objects.append(self.object_())
            else:
                wanted = ("chain", "set", "map", "comment", "flags", *_OBJECTS)
                if token.kind == "end":
                    self.unexpected("'}'")
                self.bad(f"chain, set or map is expected, not {token.text!r}", did_you_mean(token.text, wanted))
        self.inside.pop()
        return NftTable(family, name, chains, self.sets, comment, flags, tuple(objects))

    def flags(self) -> tuple[str, ...]:
        found = [self.name("a flag")]
        while self.accept(","):
            found.append(self.name("a flag"))
        return tuple(found)

    def object_(self) -> NftObject:
        kind = self.take().text
        if kind == "ct":
            kind += f" {self.name('helper, timeout or expectation')}"
        name = self.name(f"the name of a {kind}")
        self.inside.append(f"{kind} {name}")
        self.expect("{")
        lines: list[str] = []
        depth = 0
        start: int | None = None
        while True:
            token = self.now
            if token.kind == "end":
                self.unexpected("'}'")
            if token.kind == "newline" or (depth == 0 and self.is_("}")):
                if start is not None:
                    lines.append(self.line[start : token.start].rstrip())
                start = None
                self.take()
                if token.kind != "newline":
                    break
                continue
            if start is None:
                start = token.start
            depth += {"{": 1, "}": -1}.get(token.text, 0) if token.kind == "punct" else 0
            self.at += 1
        self.inside.pop()
        text = "\n".join(line.strip() for line in lines)
        counted = re.fullmatch(r"packets (\d+) bytes (\d+)", text) if kind == "counter" else None
        return NftObject(kind, name, text, f'{{"packets": {counted[1]}, "bytes": {counted[2]}}}' if counted is not None else "")

    # -- sets ----------------------------------------------------------------------------------------------------------

    def set_(self, is_map: bool) -> NftSet:
        name = self.name("the name of a set")
        self.inside.append(f"{'map' if is_map else 'set'} {name}")
        start = self.now
        self.expect("{")
        types: tuple[str, ...] = ()
        data: tuple[str, ...] = ()
        typeof = comment = policy = ""
        flags: tuple[str, ...] = ()
        timeout: int | float | None = None
        size = gc_interval = None
        auto_merge = False
        statements: list[Statement] = []
        elements: list[Element] = []
        while True:
            self.blank()
            if self.accept("}"):
                break
            if self.accept("type"):
                types = self.types()
                if is_map:
                    self.expect(":")
                    prefix = "interval " if self.accept("interval") else ""
                    data = self.types()
                    data = (prefix + data[0], *data[1:])
            elif self.accept("typeof"):
                typeof, types, data = self.typeof(is_map)
            elif self.accept("flags"):
                flags = self.flags()
                wrong = next((f for f in flags if f not in words.SET_FLAGS), None)
                if wrong is not None:
                    self.bad(f"unknown flag {wrong!r} of a set", did_you_mean(wrong, words.SET_FLAGS))
                flags = tuple(f for f in words.SET_FLAGS if f in flags)
            elif self.accept("timeout"):
                timeout = self.seconds()
            elif self.accept("gc-interval"):
                gc_interval = int(self.seconds())
            elif self.accept("size"):
                size = self.number()
                if self.now.kind == "comment":  # `size 65535 # count 3` of newer nft
                    self.take()
            elif self.accept("policy"):
                policy = self.name("a policy")
            elif self.accept("auto-merge"):
                auto_merge = True
            elif self.accept("comment"):
                comment = self.quoted()
            elif self.accept("elements"):
                self.expect("=")
                if not types:
                    self.bad(f"the type of {name} must come before its elements")
                elements = self.elements(" . ".join(types), bool(data), " . ".join(data).removeprefix("interval "))
            elif self.is_("counter", "quota", "limit", "last", "ct"):
                statements += self.stateful()
            elif self.now.kind == "end":
                self.unexpected("'}'")
            else:
                known = (
                    "type", "typeof", "flags", "timeout", "gc-interval", "size", "policy", "comment", "elements", "auto-merge",
                )  # fmt: skip
                self.bad(f"{self.now.text!r} is no part of a set", did_you_mean(self.now.text, known))
            if not (self.now.kind in ("newline", "comment", "end") or self.is_(";", "}")):
                self.unexpected("the end of the line")
        if not types:
            self.bad(f"{name} has no type", _CUT, start)
        self.inside.pop()
        return NftSet(
            name, types, data, flags, tuple(elements), None if timeout is None else int(timeout), size, comment, typeof, policy,
            auto_merge, gc_interval, tuple(statements),
        )  # fmt: skip

    def types(self) -> tuple[str, ...]:
        found = [self.name("a type")]
        while self.accept("."):
            found.append(self.name("a type"))
        return tuple(found)

    def typeof(self, is_map: bool) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        start = self.now.start
        types = self.typeof_part()
        data: tuple[str, ...] = ()
        if is_map:
            self.expect(":")
            if self.is_("verdict", "counter", "quota", "limit"):
                data = (self.take().text,)
            else:
                prefix = "interval " if self.accept("interval") else ""
                data = self.typeof_part()
                data = (prefix + data[0], *data[1:])
        return self.line[start : self.now.start].strip().rstrip(";").strip(), types, data

    def typeof_part(self) -> tuple[str, ...]:
        found = self.concat("")
        parts = found.parts if isinstance(found, n.Concat) else (found,)
        return tuple(words.datatype(part) or "integer" for part in parts)

    def elements(self, kind: str, is_map: bool, data_kind: str) -> list[Element]:
        self.breaks()
        self.expect("{")
        found: list[Element] = []

        def whole_line(text: str) -> tuple[Element, ...]:
            """`A, B,`"""
            reader = _Reader(text, self.file, self.first + self.row, self.family, self.sets)
            read: list[Element] = []
            while reader.now.kind != "end":
                read.append(reader.element(kind, is_map, data_kind))
                reader.expect(",")
            return tuple(read)

        shapes = Shapes(TEXT_HOLES, whole_line)
        while True:
            for elements, _ in self.known_lines(shapes):
                found += elements
            self.breaks()
            if self.accept("}"):
                return found
            found.append(self.element(kind, is_map, data_kind))
            self.breaks()
            if not self.accept(","):
                self.breaks()
                if not self.is_("}"):
                    self.unexpected("',' or '}'")

    def known_lines(self, shapes: Shapes[T]) -> Iterator[tuple[T, int]]:
        """What the lines that follow say, with their numbers, as far as their shapes are known."""
        while self.now.kind == "newline":
            read = shapes.read(self.lines[self.row + 1])
            if read is None:
                return
            self.row += 1
            yield read, self.first + self.row
            if self.row + 1 == len(self.lines):
                self.tokens, self.at = [_Token("end", "", self.first + self.row, 0)], 0

    def element(self, kind: str, is_map: bool, data_kind: str) -> Element:
        key: Expression
        behind = (":", ",", "}", "\n", "comment", "counter", "timeout")
        if self.is_("*") and self.ahead(1).text in behind:
            self.take()
            key = Value("*")
        else:
            key = self.concat(kind)
            while kind in words.FLAG_TYPES and self.accept("|"):
                key = n.Binary("|", key, self.value(kind))
        timeout = expires = None
        comment = ""
        statements: list[Statement] = []
        while True:
            if self.accept("timeout"):
                timeout = self.seconds()
            elif self.accept("expires"):
                expires = self.seconds()
            elif self.accept("comment"):
                comment = self.quoted()
            elif self.is_("counter", "quota", "limit", "last") or (self.is_("ct") and self.ahead(1).text == "count"):
                statements += self.stateful()
            else:
                break
        data: Expression | n.Verdict | None = None
        if is_map:
            self.breaks()
            self.expect(":")
            self.breaks()
            data = self.verdict() if self.is_(*words.VERDICTS) else self.concat(data_kind)
        return Element(key, data, comment, timeout, expires, tuple(statements))

    def stateful(self) -> list[Statement]:
        """A statement that an element carries."""
        if self.is_("counter"):
            return [self.counter()]
        if self.is_("limit"):
            return [self.limit()]
        start = self.now
        while not self.ended() and not self.is_(",", ":", "timeout", "expires", "comment"):
            self.take()
        return [n.UnknownStatement(self.line[start.start : self.now.start].strip())]

    # -- chains --------------------------------------------------------------------------------------------------------

    def chain(self) -> NftChain:
        name = self.name("the name of a chain")
        self.inside.append(f"chain {name}")
        self.expect("{")
        made = NftChain(name)
        comment = policy = ""
        rules: list[NftRule] = []
        while True:
            rules += [NftRule(*read, Ref(self.file, line)) for read, line in self.known_lines(self.rules)]
            self.blank()
            if self.accept("}"):
                break
            if self.now.kind == "end":
                self.unexpected("'}'")
            if self.is_("type") and not rules:
                made = self.base(name)
            elif self.is_("policy") and not rules and made.type:
                self.take()
                token = self.now
                policy = self.name("a policy")
                if policy not in ("accept", "drop"):
                    self.bad(f"unknown policy {policy!r}", "a policy is accept or drop", token)
            elif self.is_("comment") and not rules:
                self.take()
                comment = self.quoted()
            else:
                rules.append(self.rule())
        self.inside.pop()
        policy = policy or ("accept" if made.type else "")
        return NftChain(
            name, tuple(rules), made.type, made.hook, made.priority, policy, comment, made.other_hook, made.device
        )  # fmt: skip

    def base(self, name: str) -> NftChain:
        self.expect("type")
        token = self.now
        kind = self.name("a type of chain")
        if kind not in ("filter", "nat", "route"):
            self.bad(f"unknown type {kind!r} of a chain", did_you_mean(kind, ("filter", "nat", "route")), token)
        self.expect("hook")
        token = self.now
        hook = self.name("a hook")
        if hook not in _HOOKS and hook not in ("ingress", "egress"):
            self.bad(f"unknown hook {hook!r}", did_you_mean(hook, (*_HOOKS, "ingress", "egress")), token)
        device = ""
        if self.accept("device"):
            device = self.name("a device")
        elif self.accept("devices"):
            self.expect("=")
            self.expect("{")
            found = [self.name("a device")]
            while self.accept(","):
                found.append(self.name("a device"))
            self.expect("}")
            device = ",".join(found)
        self.expect("priority")
        priority = self.priority(hook)
        known = _HOOKS.get(hook) if self.family in ("ip", "ip6", "inet") else None
        return NftChain(name, (), kind, known, priority, "", "", "" if known is not None else hook, device)

    def priority(self, hook: str) -> int:
        if self.accept("-"):
            return -self.number("a priority")
        if self.now.kind == "number":
            return self.number("a priority")
        token = self.now
        name = self.name("a priority")
        names = dict(words.priorities(self.family, hook))
        if name not in names:
            self.bad(f"unknown priority {name!r} at {hook}", did_you_mean(name, names), token)
        if self.accept("+"):
            return names[name] + self.number()
        if self.accept("-"):
            return names[name] - self.number()
        return names[name]

    # -- rules ---------------------------------------------------------------------------------------------------------

    def whole_rule(self, text: str) -> _ReadRule:
        reader = _Reader(text, self.file, self.first + self.row, self.family, self.sets)
        rule = reader.rule()
        if reader.now.kind != "end":
            reader.unexpected("the end of the rule")
        return rule.statements, rule.comment, rule.handle

    def rule(self) -> NftRule:
        line = self.now.line
        statements: list[Statement] = []
        comment = ""
        while not self.ended():
            if self.accept("comment"):
                comment = self.quoted()
                if not self.ended():
                    self.unexpected("the end of the rule")
                break
            statements.append(self.statement())
        handle = None
        if self.now.kind == "comment":
            found = re.match(r"#\s*handle (\d+)", self.now.text)
            if found is not None:
                handle = int(found[1])
            elif self.now.text.startswith("# xt_"):  # iptables-nft's match, which this nft cannot print
                statements.append(n.UnknownStatement(self.now.text[2:].strip()))
            self.take()
        if not statements:
            self.unexpected("a statement")
        return NftRule(tuple(statements), comment, handle, Ref(self.file, line))

    def verdict(self) -> n.Verdict:
        kind = self.take().text
        return n.Verdict(kind, self.name("a chain") if kind in ("jump", "goto") else "")

    def statement(self) -> Statement:
        token, second = self.now, self.ahead(1)
        if token.kind == "word":
            text = token.text
            if text in words.VERDICTS:
                return self.verdict()
            read = self._STATEMENTS.get(text)
            if read is not None:
                return read(self)
            if text in ("add", "update", "delete") and second.text == "@":
                return self.change()
            if text == "set" and second.text in ("add", "update", "delete"):
                return self.old_change()
            if text == "ct" and second.text in ("count", "timeout", "expectation", "helper") and (
                second.text == "count" or self.ahead(2).text == "set"
            ):
                return self.unknown()
            if text in _UNKNOWN_STATEMENTS:
                return self.unknown()
        return self.expression_statement()

    def unknown(self) -> n.UnknownStatement:
        """The rest of the rule."""
        start = self.now
        last = start
        depth = 0
        while self.now.kind not in ("newline", "end", "comment") and not (depth == 0 and self.is_(";", "}")):
            if depth == 0 and self.is_("comment") and self.ahead(1).kind == "quoted":
                break
            last = self.take()
            depth += {"{": 1, "}": -1}.get(last.text, 0) if last.kind == "punct" else 0
        return n.UnknownStatement(self.line[start.start : last.start + len(last.text)])

    def counter(self) -> n.Counter:
        self.expect("counter")
        if self.accept("name"):
            return n.Counter(name=self.name("a counter"))
        packets = size = 0
        if self.accept("packets"):
            packets = self.number()
            self.expect("bytes")
            size = self.number()
        return n.Counter(packets, size)

    def nat(self) -> n.Nat:
        kind = self.take().text
        family = self.take().text if self.is_("ip", "ip6") and self.ahead(1).text in ("to", "prefix", "addr", "interval") else ""
        prefix = False
        while self.is_("prefix", "addr", "interval"):  # `ip addr . port to`, `interval to` of older spellings
            prefix |= self.take().text == "prefix"
            if self.accept("."):
                self.expect("port")
        address: Expression | None = None
        port: Expression | None = None
        if self.accept("to"):
            if not self.is_(":"):
                address = self.nat_address()
            if self.accept(":"):
                port = self.value("inet_service") if self.now.kind in ("number", "duration") else self.concat("inet_service")
        flags: list[str] = []
        while self.is_(*words.NAT_FLAGS):
            flags.append(self.take().text)
            if not self.accept(","):
                break
        return n.Nat(kind, address, port, family, tuple(f for f in words.NAT_FLAGS if f in flags), prefix)

    def nat_address(self) -> Expression:
        if self.accept("["):
            low: Expression = self.single("")
            self.expect("]")
            if self.accept("-"):
                self.expect("[")
                low = n.RangeValue(low, self.single(""))
                self.expect("]")
            return low
        return self.value("") if self.now.kind == "address" else self.concat("")

    def reject(self) -> n.RejectStatement:
        self.expect("reject")
        if not self.accept("with"):
            return n.RejectStatement()
        kind = self.name("icmp, icmpv6, icmpx or tcp")
        if kind == "tcp":
            self.expect("reset")
            return n.RejectStatement("tcp reset")
        self.accept("type")
        code = str(self.number()) if self.now.kind == "number" else self.name("a code")
        if (kind, code) == words.default_reject(self.family):
            return n.RejectStatement()
        return n.RejectStatement(kind, code)

    def change(self) -> n.SetChange:
        op = self.take().text
        self.expect("@")
        name = self.name("a set")
        self.expect("{")
        known = self.sets.get(name)
        key = self.concat(" . ".join(known.type) if known is not None else "")
        timeout = None
        comment = ""
        statements: list[Statement] = []
        data: Expression | n.Verdict | None = None
        while not self.is_("}"):
            if self.accept("timeout"):
                timeout = self.seconds()
            elif self.accept("comment"):
                comment = self.quoted()
            elif self.accept(":"):
                data_kind = " . ".join(known.data) if known is not None else ""
                data = self.verdict() if self.is_(*words.VERDICTS) else self.concat(data_kind)
            elif self.is_("counter", "limit", "quota", "last", "ct"):
                statements += self.stateful()
            else:
                self.unexpected("'}'")
        self.expect("}")
        return n.SetChange(op, name, Element(key, data, comment, timeout), tuple(statements))

    def old_change(self) -> n.SetChange:
        """`set update KEY [timeout T] @NAME`, the older spelling."""
        self.expect("set")
        op = self.take().text
        key = self.concat("")
        timeout = self.seconds() if self.accept("timeout") else None
        self.expect("@")
        return n.SetChange(op, self.name("a set"), Element(key, None, "", timeout))

    def notrack(self) -> n.Notrack:
        self.take()
        return n.Notrack()

    def log(self) -> n.LogStatement:
        self.expect("log")
        prefix = level = ""
        group = snaplen = threshold = None
        flags: list[str] = []
        while True:
            if self.accept("prefix"):
                prefix = self.quoted()
            elif self.accept("level"):
                level = self.name("a level")
            elif self.accept("group"):
                group = self.number()
            elif self.accept("snaplen"):
                snaplen = self.number()
            elif self.accept("queue-threshold"):
                threshold = self.number()
            elif self.accept("flags"):
                flag = self.name("a flag")
                if flag in ("tcp", "ip"):
                    flags += [f"{flag} {each}" for each in self.flags()]
                else:
                    flags.append(flag)
            else:
                return n.LogStatement(prefix, level, group, snaplen, threshold, tuple(flags))

    def limit(self) -> n.Limit:
        self.expect("limit")
        if self.accept("name"):
            return n.Limit(name=self.name("a limit"))
        self.expect("rate")
        over = self.accept("over")
        self.accept("until")
        rate = self.number("a rate")
        unit = "packets"
        if self.accept("/"):
            per = self.name("a unit of time")
        else:
            unit, _, per = self.name("a unit").partition("/")
            if not per:
                self.expect("/")
                per = self.name("a unit of time")
        burst, burst_unit = (5, "packets") if unit == "packets" else (0, "bytes")
        if self.accept("burst"):
            burst = self.number()
            burst_unit = self.name("packets or bytes")
        return n.Limit(rate, per, burst, over, unit, burst_unit)

    _STATEMENTS: Final[dict[str, Callable[[_Reader], Statement]]] = {
        "counter": counter,
        "dnat": nat,
        "snat": nat,
        "masquerade": nat,
        "redirect": nat,
        "reject": reject,
        "notrack": notrack,
        "log": log,
        "limit": limit,
    }

    def expression_statement(self) -> Statement:
        start = self.now
        left = self.concat("")
        kind = words.datatype(left, self.sets)
        if self.accept("vmap"):
            return n.Vmap(left, self.data(kind, ""))
        if isinstance(left, n.Meta | n.CtKey | n.Payload | n.RawPayload | n.UnknownExpression) and self.accept("set"):
            return n.Mangle(left, self.concat(kind))
        if isinstance(left, Value):
            self.bad(f"{start.text!r} is no statement of nft", "give the output of nft list ruleset", start)
        op = ""
        if self.is_("==", "!=", "<", ">", "<=", ">=", "!") or (
            self.now.kind == "word" and self.now.text in _WORD_OPERATORS
        ):
            op = self.take().text
            op = _WORD_OPERATORS.get(op, op)
        if self.ended():
            if isinstance(left, n.UnknownExpression):
                return n.UnknownStatement(left.text)
            self.unexpected("a value")
        right = self.right(kind)
        flags = kind in words.FLAG_TYPES
        if flags and self.accept("/"):
            mask = self.listed(kind)
            return n.Compare(n.Binary("&", left, mask), op or "==", right)
        if not op:
            plain = flags and isinstance(right, Value | n.ListValue) and not isinstance(left, n.Binary)
            op = "in" if plain else "=="
        return n.Compare(left, op, right)

    def right(self, kind: str) -> Expression:
        if self.is_("{"):
            return n.SetLiteral(tuple(self.elements(kind, False, "")))
        if self.is_("@"):
            self.take()
            return n.SetName(self.name("a set"))
        value = self.listed(kind)
        while self.is_("|") and kind in words.FLAG_TYPES:
            self.take()
            value = n.Binary("|", value, self.value(kind))
        return value

    def listed(self, kind: str) -> Expression:
        first = self.concat(kind)
        if not self.is_(","):
            return first
        parts = [first]
        while self.accept(","):
            parts.append(self.value(kind))
        return n.ListValue(tuple(parts))

    def data(self, kind: str, data_kind: str) -> n.SetName | n.SetLiteral:
        if self.accept("@"):
            return n.SetName(self.name("a map"))
        return n.SetLiteral(tuple(self.elements(kind, True, data_kind)))

    # -- expressions ---------------------------------------------------------------------------------------------------

    def concat(self, kind: str) -> Expression:
        kinds = kind.split(" . ") if kind else []
        first = self.mapped(kinds[0] if kinds else "", kind)
        if not self.is_("."):
            return first
        parts = [first]
        while self.accept("."):
            parts.append(self.binary(kinds[len(parts)] if len(parts) < len(kinds) else "", 1))
        made: Expression = n.Concat(tuple(parts))
        if self.accept("map"):
            made = n.Lookup(made, self.data(words.datatype(made, self.sets), kind))
        return made

    def mapped(self, kind: str, data_kind: str) -> Expression:
        made = self.binary(kind, 1)
        if self.accept("map"):
            made = n.Lookup(made, self.data(words.datatype(made, self.sets), data_kind))
        return made

    def binary(self, kind: str, level: int) -> Expression:
        if level > len(_BINARY):
            return self.value(kind)
        left = self.binary(kind, level + 1)
        while self.is_(*_BINARY[level - 1]) and not (kind in words.FLAG_TYPES and self.is_("|")):
            op = self.take().text
            inner = "integer" if op in ("<<", ">>") else words.datatype(left, self.sets) or kind
            right = self.flag_mask(inner) if inner in words.FLAG_TYPES else self.binary(inner, level + 1)
            left = n.Binary(op, left, right)
        return left

    def flag_mask(self, kind: str) -> Expression:
        """`(syn|ack)`, `syn`."""
        if not self.accept("("):
            return self.value(kind)
        parts = [self.value(kind)]
        while self.accept("|"):
            parts.append(self.value(kind))
        self.expect(")")
        return n.ListValue(tuple(parts)) if len(parts) > 1 else parts[0]

    def value(self, kind: str) -> Expression:
        """A primary expression, with a prefix length or the end of a range behind it."""
        if self.accept("("):
            made = self.binary(kind, 1)
            self.expect(")")
            return made
        start = self.now
        made = self.single(kind)
        if not isinstance(made, Value):
            return made
        if self.is_("/") and start.kind == "address":
            self.take()
            length = self.number("a prefix length")
            if ":" in start.text and start.text.count(":") == 5 and "::" not in start.text:
                self.bad(f"{start.text!r} is not an address", None, start)  # of a device
            if length > ip(start.text).bits:
                self.bad(f"{start.text}/{length} has no valid prefix length", None, start)
            return n.PrefixValue(str(made.value), length)
        if self.is_("-"):
            self.take()
            return n.RangeValue(made, self.single(kind))
        return made

    def single(self, kind: str) -> Expression:
        token = self.now
        if token.kind == "word":
            return self.named(kind)
        if token.kind == "address":
            self.at += 1
            if not re.fullmatch(r"[0-9A-Fa-f]{1,2}(:[0-9A-Fa-f]{1,2}){5}", token.text):
                try:
                    ip(token.text)
                except ValueError:
                    self.bad(f"{token.text!r} is not an address", None, token)
            return Value(token.text)
        if token.kind == "number":
            return Value(self.integer())
        if token.kind == "duration":
            self.at += 1
            return Value(token.text)
        if token.kind == "quoted":
            self.at += 1
            return Value(token.text[1:-1])
        if self.accept("@"):
            base = self.name("ll, nh, th or ih")
            if base not in ("ll", "nh", "th", "ih"):
                return n.SetName(base)
            self.expect(",")
            offset = self.number()
            self.expect(",")
            return n.RawPayload(base, offset, self.number())
        if not self.accept("*"):
            self.unexpected("an expression")
        return Value("*")

    def named(self, kind: str) -> Expression:
        token, second = self.take(), self.now
        text = token.text
        if text == "meta" and second.kind == "word":
            return n.Meta(self.take().text)
        if text in words.UNQUALIFIED_META or (text in ("mark", "skuid", "skgid") and not kind):
            return n.Meta(text)
        if text == "ct" and second.kind == "word":
            return self.ct()
        if text == "fib" and second.kind == "word":
            flags = [self.take().text]
            while self.accept("."):
                flags.append(self.name("a flag of fib"))
            return n.Fib(tuple(flags), self.name("oif, oifname or type"))
        if text == "numgen" and second.kind == "word":
            mode = self.take().text
            self.expect("mod")
            modulus = self.number()
            return n.Numgen(mode, modulus, self.number() if self.accept("offset") else 0)
        if text in ("jhash", "symhash") and (second.kind == "word"):
            of = self.concat("") if text == "jhash" else None
            self.expect("mod")
            modulus = self.number()
            seed = self.number() if self.accept("seed") else None
            return n.Hashed(of, modulus, seed, self.number() if self.accept("offset") else 0)
        known = words.PAYLOADS.get(text)
        if known is not None and second.kind == "word" and second.text in known:
            return n.Payload(text, self.take().text)
        is_option = text in _OPTION_PROTOCOLS and second.text in ("option", "chunk")
        if is_option or (text in _UNKNOWN_EXPRESSIONS and second.kind == "word"):
            return self.unknown_expression(token)
        if known is not None and second.kind == "word" and not kind:
            hint = did_you_mean(second.text, known)
            if hint is not None:
                self.bad(f"{text} has no field {second.text!r}", hint, second)
        return Value(text)

    def ct(self) -> Expression:
        direction = self.take().text if self.is_("original", "reply") else ""
        family = self.take().text if self.is_("ip", "ip6") else ""
        token = self.now
        key = self.name("a key of ct")
        if key not in words.CT_TYPES:
            self.bad(f"ct has no key {key!r}", did_you_mean(key, words.CT_TYPES), token)
        return n.CtKey(key, direction, family)

    def unknown_expression(self, first: _Token) -> n.UnknownExpression:
        """`tcp option maxseg size`, `exthdr frag`: the words up to the operator or value."""
        last = first
        while self.now.kind == "word" and self.now.text not in ("set", "vmap", "map", "exists", "missing", *words.VERDICTS):
            last = self.take()
        return n.UnknownExpression(self.line[first.start : last.start + len(last.text)])


_BINARY: Final = (("|",), ("^",), ("&",), ("<<", ">>"))
_WORD_OPERATORS: Final = {"eq": "==", "ne": "!=", "lt": "<", "gt": ">", "le": "<=", "ge": ">="}


# -- writing -----------------------------------------------------------------------------------------------------------


def write_text(tables: Iterable[NftTable]) -> str:
    """What `nft list ruleset` prints for these tables, without handles; `nft -f` reads it.

    >>> write_text([NftTable("ip", "t", {"c": NftChain("c", (NftRule((n.Verdict("drop"),)),))})])
    'table ip t {\\n\\tchain c {\\n\\t\\tdrop\\n\\t}\\n}\\n'
    """
    return "".join(_table_text(table) for table in tables)


def _table_text(table: NftTable) -> str:
    blocks: list[list[str]] = []
    for each in table.objects:
        if each.json and not each.text:
            what = f"{each.kind} {each.name} cannot be written as text of nft"
            raise InputError(what, None, "it was read from JSON: write JSON")
        lines = [f"\t\t{line}" for line in each.text.split("\n") if line]
        blocks.append([f"\t{each.kind} {each.name} {{", *lines, "\t}"])
    blocks += [_set_lines(made, table) for made in table.sets.values()]
    blocks += [_chain_lines(chain, table) for chain in table.chains.values()]
    head = [f"table {table.family} {table.name} {{"]
    if table.flags:
        head.append(f"\tflags {','.join(table.flags)}")
    if table.comment:
        head.append(f'\tcomment "{table.comment}"')
    body = "\n\n".join("\n".join(block) for block in blocks)
    return "\n".join(head) + "\n" + (f"{body}\n" if body else "") + "}\n"


def _set_lines(made: NftSet, table: NftTable) -> list[str]:
    kind, data_kind = " . ".join(made.type), " . ".join(made.data)
    lines = [f"\t{'map' if made.data else 'set'} {made.name} {{"]
    if made.typeof:
        lines.append(f"\t\ttypeof {made.typeof}")
    else:
        lines.append(f"\t\ttype {kind}" + (f" : {data_kind}" if made.data else ""))
    if made.policy:
        lines.append(f"\t\tpolicy {made.policy}")
    if made.size is not None:
        lines.append(f"\t\tsize {made.size}")
    if made.flags:
        lines.append(f"\t\tflags {','.join(made.flags)}")
    lines += [f"\t\t{words.statement_text(s, table.family, {}, in_set=True)}" for s in made.statements]
    if made.timeout is not None:
        lines.append(f"\t\ttimeout {words.duration(made.timeout)}")
    if made.gc_interval is not None:
        lines.append(f"\t\tgc-interval {words.duration(made.gc_interval)}")
    if made.auto_merge:
        lines.append("\t\tauto-merge")
    if made.comment:
        lines.append(f'\t\tcomment "{made.comment}"')
    if made.elements:
        count = words.delimiters(kind)
        texts = [words.element_text(e, kind, table.sets, data_kind.removeprefix("interval ")) for e in made.elements]
        rows = [", ".join(texts[i : i + count]) for i in range(0, len(texts), count)]
        lines.append("\t\telements = { " + ",\n\t\t\t     ".join(rows) + " }")
    return [*lines, "\t}"]


def _chain_lines(chain: NftChain, table: NftTable) -> list[str]:
    lines = [f"\tchain {chain.name} {{"]
    if chain.comment:
        lines.append(f'\t\tcomment "{chain.comment}"')
    if chain.type:
        hook = chain.hook.value.lower() if chain.hook is not None else chain.other_hook
        device = ""
        if chain.device:
            names = [f'"{name}"' for name in chain.device.split(",")]
            device = f" device {names[0]}" if len(names) == 1 else f" devices = {{ {', '.join(names)} }}"
        priority = words.priority_text(table.family, hook, chain.priority)
        lines.append(f"\t\ttype {chain.type} hook {hook}{device} priority {priority}; policy {chain.policy or 'accept'};")
    lines += [f"\t\t{words.rule_text(rule, table)}" for rule in chain.rules]
    return [*lines, "\t}"]
