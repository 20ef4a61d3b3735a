"""Calico's selector language: `app == 'web' && has(tier)`, as BGPPeers, IPPools and Calico's policies use it.

Law: the grammar and the meaning of an absent label are those of libcalico-go/lib/selector: `!=` and `not in` hold for a label
that is not there, all other comparisons do not. An empty selector is all(). What does not parse is a ValueError that says where.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Predicate = Callable[[Mapping[str, str]], bool]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<op>==|!=|&&|\|\||!|\(|\)|\{|\}|,)
      | (?P<string>"[^"]*"|'[^']*')
      | (?P<word>(?:not\s+in|in|contains|starts\s+with|ends\s+with)\b(?!\s*\())
      | (?P<call>(?:has|all|global)\s*\(\s*[A-Za-z0-9_./-]*\s*\))
      | (?P<label>[A-Za-z0-9_./-]+)
    )""",
    re.VERBOSE,
)


def compile_selector(text: str) -> Predicate:
    """The predicate of a selector.

    >>> holds = compile_selector("has(rack) && zone in {'a', 'b'} || !has(rack)")
    >>> holds({"rack": "1", "zone": "a"}), holds({"rack": "1", "zone": "c"}), holds({})
    (True, False, True)

    Raises
    ------
    ValueError
        The text is not a selector.
    """
    tokens = _tokens(text)
    if not tokens:
        return lambda labels: True
    parser = _Parser(text, tokens)
    found = parser.either()
    if parser.at < len(tokens):
        raise ValueError(f"selector {text!r}: {tokens[parser.at][1]!r} is not expected there")
    return found


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"selector {text!r}: {text[at:].strip()[:20]!r} is not understood")
        kind = match.lastgroup or ""
        found.append((kind, match[kind]))
        at = match.end()
    return found


class _Parser:
    def __init__(self, text: str, tokens: list[tuple[str, str]]) -> None:
        self.text, self.tokens, self.at = text, tokens, 0

    def take(self, *wanted: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at][1] in wanted:
            self.at += 1
            return True
        return False

    def next(self, kind: str, what: str) -> str:
        if self.at >= len(self.tokens) or self.tokens[self.at][0] != kind:
            found = f", not {self.tokens[self.at][1]!r}" if self.at < len(self.tokens) else ""
            raise ValueError(f"selector {self.text!r}: {what} is expected{found}")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def either(self) -> Predicate:
        parts = [self.both()]
        while self.take("||"):
            parts.append(self.both())
        return parts[0] if len(parts) == 1 else lambda labels: any(part(labels) for part in parts)

    def both(self) -> Predicate:
        parts = [self.one()]
        while self.take("&&"):
            parts.append(self.one())
        return parts[0] if len(parts) == 1 else lambda labels: all(part(labels) for part in parts)

    def one(self) -> Predicate:
        if self.take("!"):
            inner = self.one()
            return lambda labels: not inner(labels)
        if self.take("("):
            inner = self.either()
            if not self.take(")"):
                raise ValueError(f"selector {self.text!r}: a closing ) is missing")
            return inner
        if self.at < len(self.tokens) and self.tokens[self.at][0] == "call":
            name, _, rest = self.next("call", "a call").partition("(")
            argument = rest.rstrip(") \t")
            if name.strip() == "has":
                label = argument.strip()
                return lambda labels: label in labels
            return lambda labels: True  # all(), global()
        return self.comparison(self.next("label", "a label"))

    def comparison(self, label: str) -> Predicate:
        if self.take("=="):
            value = self.string()
            return lambda labels: labels.get(label) == value
        if self.take("!="):
            value = self.string()
            return lambda labels: labels.get(label) != value
        word = " ".join(self.next("word", "==, !=, in, not in, contains, starts with or ends with").split())
        if word in ("in", "not in"):
            values = self.set()
            return lambda labels: (labels.get(label) in values) is (word == "in")
        value = self.string()
        tests: dict[str, Callable[[str], bool]] = {
            "contains": lambda have: value in have,
            "starts with": lambda have: have.startswith(value),
            "ends with": lambda have: have.endswith(value),
        }
        test = tests[word]
        return lambda labels: label in labels and test(labels[label])

    def string(self) -> str:
        return self.next("string", "a value in quotes")[1:-1]

    def set(self) -> frozenset[str | None]:
        if not self.take("{"):
            raise ValueError(f"selector {self.text!r}: a set in {{braces}} is expected")
        values: list[str] = []
        while not self.take("}"):
            values.append(self.string())
            self.take(",")
        return frozenset(values)
