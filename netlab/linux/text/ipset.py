"""ipset save text: read it into sets, write sets as it.

Law: write(parse(text)) is the text again, line for line, and parse(write(sets)) == sets. Elements keep the spelling of the
tool; what cannot be an element of its set's type is an InputError with file and line. Options that decide nothing
(timeouts, counters, comments) are kept as text. Sources: ipset(8), lib/ipset_*.c and lib/print.c of ipset 7.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from netlab.errors import InputError, did_you_mean
from netlab.linux.addr import Ip, ip
from netlab.linux.sets import IpSet, SetEntry
from netlab.refs import Ref

TYPES: Final = (
    "bitmap:ip", "bitmap:ip,mac", "bitmap:port", "hash:ip", "hash:mac", "hash:ip,mac", "hash:net", "hash:net,net",
    "hash:ip,port", "hash:net,port", "hash:ip,port,ip", "hash:ip,port,net", "hash:ip,mark", "hash:net,port,net",
    "hash:net,iface", "list:set",
)  # fmt: skip

# Options of `create` with a value each, those without one, and likewise of `add` (ipset(8), GENERIC CREATE AND ADD OPTIONS).
_CREATE_VALUES: Final = frozenset({
    "hashsize", "maxelem", "timeout", "range", "netmask", "bitmask", "bucketsize", "initval", "markmask", "size", "probes",
    "resize",
})  # fmt: skip
_CREATE_FLAGS: Final = frozenset({"counters", "comment", "skbinfo", "forceadd", "nomatch", "-exist"})
_ADD_VALUES: Final = frozenset({
    "timeout", "packets", "bytes", "comment", "skbmark", "skbprio", "skbqueue", "before", "after",
})  # fmt: skip

_WORD: Final = re.compile(r'"[^"]*"|[^\s"]+')
_MAC: Final = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_PORT: Final = re.compile(r"(?:([a-z][a-z0-9.-]*|\d+):)?([A-Za-z0-9./-]+)")


def parse(text: str, file: str = "-") -> dict[str, IpSet]:
    """Read the output of `ipset save`, or a file for `ipset restore` that only creates and adds.

    Parameters
    ----------
    text : str
        Lines `create NAME TYPE ...` and `add NAME ELEMENT ...`; blank lines and # comments are accepted.
    file : str
        The name for error messages.

    Returns
    -------
    dict of str to IpSet
        The sets in the order of their creation.

    Raises
    ------
    InputError
        Where a line is no such line, a set is missing or made twice, or an element does not fit its set.

    Examples
    --------
    >>> sets = parse("create lan hash:net family inet\\nadd lan 10.0.0.0/8\\nadd lan 10.9.0.0/16 nomatch\\n")
    >>> [str(entry) for entry in sets["lan"].entries]
    ['10.0.0.0/8', '10.9.0.0/16 nomatch']
    """
    made: dict[str, IpSet] = {}
    entries: dict[str, list[SetEntry]] = {}
    members: list[tuple[str, Ref]] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line[0] == "#":
            continue
        ref = Ref(file, number)
        words = _words(line, ref)
        if words[0] in ("create", "-N") and len(words) >= 3:
            new = _create(words[1:], ref)
            if new.name in made:
                raise InputError(f"set {new.name} is created twice", ref, "give one dump of one node")
            made[new.name] = new
            entries[new.name] = []
        elif words[0] in ("add", "-A") and len(words) >= 3:
            target = made.get(words[1])
            if target is None:
                hint = did_you_mean(words[1], made) or f"its line `create {words[1]} TYPE` must come before"
                raise InputError(f"set {words[1]} is not created", ref, hint)
            entries[target.name].append(_add(target, words[2:], ref))
            if target.type == "list:set":
                members.append((words[2], ref))
        elif words[0] in ("create", "add", "-N", "-A"):
            raise InputError(f"the line is incomplete: {line!r}", ref, "was the text cut off? dump it again")
        else:
            raise InputError(f"not a line of ipset save: {line[:60]!r}", ref, "expected create NAME TYPE or add NAME ELEMENT")
    for member, ref in members:
        if member not in made:
            raise InputError(f"set {member}, a member of a list, is not created", ref, did_you_mean(member, made))
    return {
        name: IpSet(name, each.type, each.family, tuple(entries[name]), each.options) for name, each in made.items()
    }  # fmt: skip


def write(sets: Mapping[str, IpSet] | Iterable[IpSet]) -> str:
    """The text that `ipset restore` reads back as these sets, in their order.

    >>> print(write([IpSet("lan", "hash:net", 4, (SetEntry(("10.0.0.0/8",)),))]), end="")
    create lan hash:net family inet
    add lan 10.0.0.0/8
    """
    lines = []
    for each in sets.values() if isinstance(sets, Mapping) else sets:
        words = ["create", each.name, each.type]
        if _has_family(each.type):
            words.append("family inet" if each.family == 4 else "family inet6")
        if each.options:
            words.append(each.options)
        lines.append(" ".join(words))
        lines += [f"add {each.name} {entry}" for entry in each.entries]
    return "".join([f"{line}\n" for line in lines])


def _has_family(type_: str) -> bool:
    return type_.startswith("hash:") and type_ != "hash:mac"


def _words(line: str, ref: Ref) -> list[str]:
    """Words of a line; a text in double quotes is one word and keeps its quotes (ipset knows no escapes in it)."""
    if line.count('"') % 2:
        raise InputError(f"unterminated quote: {line[:60]!r}", ref, 'a text in quotes ends with "')
    return _WORD.findall(line)


def _create(words: list[str], ref: Ref) -> IpSet:
    name, type_ = words[0], words[1]
    if len(name.encode()) > 31:
        raise InputError(f"the name of set {name} is longer than 31 bytes", ref)
    if type_ not in TYPES:
        raise InputError(f"unknown set type {type_!r}", ref, did_you_mean(type_, TYPES) or f"ipset has {', '.join(TYPES)}")
    family, kept, at = 4, [], 2
    while at < len(words):
        word = words[at]
        needs_value = word == "family" or word in _CREATE_VALUES
        if not needs_value and word not in _CREATE_FLAGS:
            hint = did_you_mean(word, _CREATE_VALUES | _CREATE_FLAGS | {"family"})
            raise InputError(f"unknown option {word!r} of set {name}", ref, hint)
        if needs_value and at + 1 == len(words):
            raise InputError(f"{word} needs a value", ref, "was the text cut off? dump it again")
        if word == "family":
            value = words[at + 1]
            if value not in ("inet", "inet6") or not _has_family(type_):
                raise InputError(
                    f"family {value!r} of set {name} ({type_})", ref, "a family is inet or inet6, of hash sets alone"
                )
            family = 4 if value == "inet" else 6
        elif word != "-exist":
            kept += words[at : at + 1 + needs_value]
        at += 1 + needs_value
    return IpSet(name, type_, family, (), " ".join(kept))


def _add(target: IpSet, words: list[str], ref: Ref) -> SetEntry:
    parts = tuple(words[0].split(","))
    kinds = target.type.partition(":")[2].split(",")
    fewest = 1 if target.type == "bitmap:ip,mac" else len(kinds)
    if not fewest <= len(parts) <= len(kinds):
        raise InputError(f"not an element of {target.name} ({target.type}): {words[0]!r}", ref, f"expected {','.join(kinds)}")
    for kind, part in zip(kinds, parts, strict=False):
        problem = _problem(kind, part, target.family)
        if problem is not None:
            raise InputError(f"not an element of {target.name} ({target.type}): {words[0]!r}", ref, problem)
    nomatch, kept, at = False, [], 1
    while at < len(words):
        word = words[at]
        if word == "nomatch":
            nomatch = True
        elif word in _ADD_VALUES:
            if at + 1 == len(words):
                raise InputError(f"{word} needs a value", ref, "was the text cut off? dump it again")
            kept += [word, words[at + 1]]
            at += 1
        elif word != "-exist":
            raise InputError(f"unknown option {word!r} of an element", ref, did_you_mean(word, _ADD_VALUES | {"nomatch"}))
        at += 1
    return SetEntry(parts, nomatch, " ".join(kept))


def _problem(kind: str, part: str, family: int) -> str | None:
    """What is wrong with one part of an element, or None."""
    match kind:
        case "ip" | "net":
            low, dash, high = part.partition("-")
            host, slash, length = low.partition("/")
            found = [_address(host), _address(high) if dash else None]
            if found[0] is None or (dash and found[1] is None):
                return f"{part!r} is not an address"
            wrong = next((each for each in found if each is not None and each.family != family), None)
            if wrong is not None:
                return f"{wrong} is an IPv{wrong.family} address, the set holds IPv{family}"
            if slash and not (length.isascii() and length.isdigit() and int(length) <= found[0].bits):
                return f"{part!r} has no valid prefix length"
        case "port":
            shape = _PORT.fullmatch(part)
            number = shape[2].partition("-")[0] if shape is not None else "x"
            if shape is None or (number.isdigit() and int(number) > 65535):
                return f"{part!r} is not a port: expected 80 or tcp:80"
        case "mac":
            if not _MAC.fullmatch(part):
                return f"{part!r} is not a MAC address"
        case "mark":
            if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}|\d{1,10}", part):
                return f"{part!r} is not a mark"
        case _:  # iface, set: any name
            if not part:
                return "a name is missing"
    return None


def _address(text: str) -> Ip | None:
    try:
        return ip(text)
    except ValueError:
        return None
