"""`nft -j list ruleset`: read it into tables, write tables as it (libnftables-json(5), schema version 1).

Law: read(write(tables)) == tables; a statement that netlab does not know stays the JSON that it was. Whatever nft itself
would not print (a rule of no chain, a map that leads to no chain, an unknown schema) is an InputError with the JSON path.
JSON of nft 1.0.6 leaves out `dynamic`, `typeof`, and the comments of tables and chains; a set that a rule changes is dynamic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from netlab.errors import InputError, did_you_mean
from netlab.linux import nft as n
from netlab.linux.addr import Ip, ip
from netlab.linux.hook import Hook
from netlab.linux.nft import Element, Expression, NftChain, NftObject, NftRule, NftSet, NftTable, Statement, Value
from netlab.linux.text import nft_words as words
from netlab.linux.text.nft_check import check_tables
from netlab.linux.text.nft_shapes import JSON_HOLES, NotRead, Shapes, collector_off
from netlab.refs import Ref

T = TypeVar("T")
SCHEMA: Final = 1
_OBJECTS: Final = (
    "counter", "quota", "limit", "ct helper", "ct timeout", "ct expectation", "synproxy", "secmark", "flowtable",
)  # fmt: skip
_ADDRESSES: Final = {"ipv4_addr": 4, "ipv6_addr": 6}
_LIKE_ADDRESS: Final = re.compile(r"[\d.]+|[\dA-Fa-f:.]*:.*")
_REJECTS: Final = ("", "icmp", "icmpv6", "icmpx", "tcp reset")
_BINARY: Final = ("|", "^", "&", "<<", ">>")
_ELEMENT_STATEMENTS: Final = ("counter", "quota", "limit", "last", "connlimit")
_CUT: Final = "was the file cut off? dump it again: nft -j list ruleset"


def read_json(text: str, file: str = "-") -> tuple[NftTable, ...]:
    """Read the output of `nft -j list ruleset` (or `list table`).

    Parameters
    ----------
    text : str
        The whole output.
    file : str
        The name for error messages and for each rule's `ref`.

    Returns
    -------
    tuple of NftTable
        In the order of the output.

    Raises
    ------
    InputError
        For JSON that is not nft's, of another schema version, or cut off; for what refers to chains and sets that are not there.

    Examples
    --------
    >>> read_json('{"nftables": [{"metainfo": {"json_schema_version": 1}}, {"table": {"family": "ip", "name": "t"}}]}')[0].name
    't'
    """
    with collector_off():
        try:
            listed: list[Any] = list(msgspec.json.decode(text, type=_Document).nftables)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):  # json has the line
            listed = _listed(text, file)
        return _Reader(file).read(listed)


class _Document(msgspec.Struct):
    """The objects of a listing, each with its kind, still as text."""

    nftables: list[dict[str, msgspec.Raw]]


def _listed(text: str, file: str) -> list[Any]:
    """The objects of a listing that is not as nft prints it, to say what is wrong."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", Ref(file, error.lineno), _CUT) from None
    except RecursionError:
        raise InputError("the JSON is nested too deep", Ref(file), "give the output of nft -j list ruleset") from None
    listed = document.get("nftables") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise InputError('no "nftables" list in it', Ref(file), "give the output of nft -j list ruleset")
    return listed


class _Bad(NotRead):
    """What is wrong at a path."""

    def __init__(self, what: str, path: str, hint: str | None = None) -> None:
        self.what, self.path, self.hint = what, path, hint
        super().__init__(what)


class _RuleText(msgspec.Struct):
    """A rule whose statements are still text."""

    family: str
    table: str
    chain: str
    expr: list[msgspec.Raw] = []
    comment: str = ""
    handle: int | None = None


class _SetText(msgspec.Struct):
    """The elements of a set, still as text."""

    elem: list[msgspec.Raw]


def _object_of(kind: str, raw: msgspec.Raw) -> Any:
    """An object of the listing; of its long lists the parts stay text."""
    value = None
    try:
        if kind == "rule":
            return msgspec.structs.asdict(msgspec.json.decode(raw, type=_RuleText))
        value = msgspec.json.decode(raw)
        if kind in ("set", "map"):
            value["elem"] = msgspec.json.decode(raw, type=_SetText).elem
    except msgspec.ValidationError:  # an empty set, or nothing that nft prints
        return msgspec.json.decode(raw) if value is None else value
    return value


def _known(shapes: Shapes[tuple[T, ...]], part: Any) -> tuple[T, ...]:
    """What a part says that is still text and of a known shape; nothing of others."""
    return (shapes.read(str(part, "utf-8")) or ()) if type(part) is msgspec.Raw else ()


def _read(part: Any) -> Any:
    return msgspec.json.decode(part) if type(part) is msgspec.Raw else part


class _Table:
    """A table while it is read."""

    def __init__(self, family: str, name: str, comment: str, flags: tuple[str, ...]) -> None:
        self.family, self.name, self.comment, self.flags = family, name, comment, flags
        self.chains: dict[str, NftChain] = {}
        self.rules: dict[str, list[NftRule]] = {}
        self.sets: dict[str, NftSet] = {}
        self.objects: list[NftObject] = []
        self.changed: set[str] = set()


class _Reader:
    """Reads one document; `table` is the one that expressions belong to."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.tables: dict[tuple[str, str], _Table] = {}
        self.family = "ip"
        self.statements = self._statement_shapes()

    def read(self, listed: list[Any]) -> tuple[NftTable, ...]:
        try:
            for number, item in enumerate(listed):
                path = f"nftables[{number}]"
                if not isinstance(item, dict) or len(item) != 1:
                    raise _Bad("an object of one key is expected", path)
                ((kind, value),) = item.items()
                if isinstance(value, msgspec.Raw):
                    try:
                        value = _object_of(kind, value)
                    except ValueError:
                        raise _Bad("a number in it is too large", f"{path}.{kind}", _CUT) from None
                if not isinstance(value, dict):
                    raise _Bad("an object is expected", f"{path}.{kind}")
                self._item(kind, value, f"{path}.{kind}")
        except RecursionError:
            raise InputError("the JSON is nested too deep", Ref(self.file), "give the output of nft -j list ruleset") from None
        except _Bad as bad:
            raise InputError(bad.what, Ref(self.file, path=bad.path), bad.hint) from None
        made = tuple(self._finish(table) for table in self.tables.values())
        check_tables(made, self.file)
        return made

    def _finish(self, table: _Table) -> NftTable:
        chains = {
            name: _with_rules(chain, tuple(table.rules[name])) for name, chain in table.chains.items()
        }  # fmt: skip
        sets = {
            name: _dynamic(each) if name in table.changed else each for name, each in table.sets.items()
        }  # fmt: skip
        return NftTable(table.family, table.name, chains, sets, table.comment, table.flags, tuple(table.objects))

    def _item(self, kind: str, value: dict[str, Any], path: str) -> None:
        if kind == "metainfo":
            version = value.get("json_schema_version", SCHEMA)
            if version != SCHEMA:
                hint = f"netlab reads version {SCHEMA} (nft 0.9 to 1.1)"
                raise _Bad(f"JSON schema version {version!r} of nft is not known", path, hint)
            return
        if kind == "table":
            family, name = _text(value, "family", path), _text(value, "name", path)
            if family not in words.FAMILIES:
                raise _Bad(f"unknown family {family!r}", f"{path}.family", did_you_mean(family, words.FAMILIES))
            if (family, name) in self.tables:
                raise _Bad(f"table {family} {name} is there twice", path, "give one dump of one node")
            self.tables[family, name] = _Table(family, name, _optional(value, "comment"), _strings(value.get("flags"), path))
            return
        table = self._table(value, path)
        if table.family != self.family:
            self.family = table.family
            self.statements = self._statement_shapes()  # what a statement says depends on the family
        if kind == "chain":
            self._chain(table, value, path)
        elif kind in ("set", "map", "meter"):
            made = self._set(value, path, kind == "map")
            if made.name in table.sets:
                raise _Bad(f"set {made.name} is there twice", path, "give one dump of one node")
            table.sets[made.name] = made
        elif kind == "rule":
            self._rule(table, value, path)
        elif kind == "element":
            raise _Bad("elements outside of their set", path, "give the output of nft -j list ruleset")
        elif kind in _OBJECTS:
            body = {k: v for k, v in value.items() if k not in ("family", "name", "table", "handle")}
            table.objects.append(NftObject(kind, _text(value, "name", path), _object_text(kind, body), _dump(body)))
        else:
            raise _Bad(f"unknown object {kind!r}", path, did_you_mean(kind, ("table", "chain", "set", "map", "rule", *_OBJECTS)))

    def _table(self, value: dict[str, Any], path: str) -> _Table:
        family, name = _text(value, "family", path), _text(value, "table", path)
        known = self.tables.get((family, name))
        if known is None:
            hint = did_you_mean(name, (t for _, t in self.tables)) or "its table must come before it"
            raise _Bad(f"table {family} {name} is not there", f"{path}.table", hint)
        return known

    def _chain(self, table: _Table, value: dict[str, Any], path: str) -> None:
        name = _text(value, "name", path)
        if name in table.chains:
            raise _Bad(f"chain {name} is there twice", path, "give one dump of one node")
        hook = _text(value, "hook", path) if "hook" in value else None
        made = NftChain(name, comment=_optional(value, "comment"))
        if hook is not None:
            known = _HOOKS.get(hook) if table.family in ("ip", "ip6", "inet") else None
            if known is None and hook not in _ALL_HOOKS:
                raise _Bad(f"unknown hook {hook!r}", f"{path}.hook", did_you_mean(str(hook), _ALL_HOOKS))
            device = value.get("dev", "")
            policy = value.get("policy", "accept")
            if policy not in ("accept", "drop"):
                raise _Bad(f"unknown policy {policy!r}", f"{path}.policy", "a policy is accept or drop")
            kind = value.get("type", "filter")
            if kind not in ("filter", "nat", "route"):
                raise _Bad(f"unknown type {kind!r} of a chain", f"{path}.type", "a type is filter, nat or route")
            made = NftChain(
                name,
                (),
                kind,
                known,
                _number(value, "prio", path),
                policy,
                made.comment,
                "" if known is not None else hook,
                ",".join(device) if isinstance(device, list) else str(device),
            )
        table.chains[name] = made
        table.rules[name] = []

    def _set(self, value: dict[str, Any], path: str, is_map: bool) -> NftSet:
        types = value.get("type")
        data = value.get("map", "")
        if isinstance(types, dict):
            raise _Bad("typeof in JSON is not known", f"{path}.type", "netlab reads what nft 1.0 prints")
        keys = _strings(types, f"{path}.type")
        if not keys:
            raise _Bad("a set has a type", path)
        if is_map and (not isinstance(data, str) or not data):
            raise _Bad("a map has a type of data", f"{path}.map")
        datas = tuple(data.split(" . ")) if data else ()
        elements = _list(value, "elem", path)
        flags = _strings(value.get("flags"), f"{path}.flags")
        kind = " . ".join(keys)
        data_kind = " . ".join(datas)

        def read(element: Any, path: str) -> Element:
            return self._element(element, path, bool(datas), kind, data_kind)

        shapes: Shapes[tuple[Element, ...]] = Shapes(JSON_HOLES, lambda text: (read(msgspec.Raw(text.encode()), path),))
        made: list[Element] = []
        for number, raw in enumerate(elements):
            made += _known(shapes, raw) or (read(raw, f"{path}.elem[{number}]"),)
        statements = tuple(self._statement(s, f"{path}.stmt[{i}]")[0] for i, s in enumerate(_list(value, "stmt", path)))
        return NftSet(
            _text(value, "name", path),
            keys,
            datas,
            tuple(f for f in words.SET_FLAGS if f in flags),
            tuple(made),
            _whole_or_none(value, "timeout", path),
            _whole_or_none(value, "size", path),
            _optional(value, "comment"),
            policy=_optional(value, "policy"),
            auto_merge=bool(value.get("auto-merge", False)),
            gc_interval=_whole_or_none(value, "gc-interval", path),
            statements=statements,
        )

    def _element(self, value: Any, path: str, is_map: bool, kind: str, data_kind: str) -> Element:
        value = _read(value)
        data: Expression | n.Verdict | None = None
        if is_map:
            if not isinstance(value, list) or len(value) != 2:
                raise _Bad("an element of a map is a pair of key and data", path, _CUT)
            value, raw = value
            data = self._data(raw, f"{path}[1]", data_kind)
            path += "[0]"
        comment, timeout, expires = "", None, None
        statements: list[Statement] = []
        if isinstance(value, dict) and "elem" in value:
            inner = value["elem"]
            if not isinstance(inner, dict) or "val" not in inner:
                raise _Bad("an element has a value", path, _CUT)
            comment = _optional(inner, "comment")
            timeout, expires = _whole_or_none(inner, "timeout", path), _whole_or_none(inner, "expires", path)
            for name in _ELEMENT_STATEMENTS:
                if name in inner:
                    statements.append(self._statement({name: inner[name]}, path)[0])
            value = inner["val"]
        return Element(self._expression(value, path, kind), data, comment, timeout, expires, tuple(statements))

    def _data(self, raw: Any, path: str, kind: str) -> Expression | n.Verdict:
        verdict = _verdict(raw)
        return verdict if verdict is not None else self._expression(raw, path, kind)

    def _rule(self, table: _Table, value: dict[str, Any], path: str) -> None:
        chain = _text(value, "chain", path)
        if chain not in table.chains:
            hint = did_you_mean(chain, table.chains) or "chains must come before their rules"
            raise _Bad(f"chain {chain} of table {table.family} {table.name} is not there", f"{path}.chain", hint)
        listed = _list(value, "expr", path)
        statements: list[Statement] = []
        for number, raw in enumerate(listed):
            statements += _known(self.statements, raw) or self._statement(raw, f"{path}.expr[{number}]")
        for statement in statements:
            if isinstance(statement, n.SetChange):
                table.changed.add(statement.set)
        handle = value.get("handle")
        made = NftRule(
            tuple(statements), _optional(value, "comment"), handle if isinstance(handle, int) else None, Ref(self.file, path=path)
        )
        table.rules[chain].append(made)

    def _statement_shapes(self) -> Shapes[tuple[Statement, ...]]:
        return Shapes(JSON_HOLES, lambda text: tuple(self._statement(msgspec.Raw(text.encode()), "")))

    # -- statements ----------------------------------------------------------------------------------------------------

    def _statement(self, raw: Any, path: str) -> list[Statement]:
        raw = _read(raw)
        if isinstance(raw, str):  # nft 1.0.6 prints some statements as text
            from netlab.linux.text.nft_text import read_statements

            return list(read_statements(raw, self.family, Ref(self.file, path=path)))
        if not isinstance(raw, dict) or len(raw) != 1:
            raise _Bad("a statement is an object of one key", path, _CUT)
        ((kind, value),) = raw.items()
        verdict = _verdict(raw)
        if verdict is not None:
            return [verdict]
        path = f"{path}.{kind}"
        read = self._STATEMENTS.get(kind)
        if read is None:
            return [n.UnknownStatement("", _dump(raw))]
        return [read(self, value, path)]

    def _match(self, value: Any, path: str) -> Statement:
        _object(value, path)
        op = value.get("op", "==")
        if op not in words.OPERATORS and op != "in":
            raise _Bad(f"unknown operator {op!r}", f"{path}.op")
        left = self._expression(value.get("left"), f"{path}.left")
        kind = words.datatype(left)
        return n.Compare(left, op, self._expression(value.get("right"), f"{path}.right", kind))

    def _vmap(self, value: Any, path: str) -> Statement:
        _object(value, path)
        key = self._expression(value.get("key"), f"{path}.key")
        return n.Vmap(key, self._elements(value.get("data"), f"{path}.data", words.datatype(key)))

    def _elements(self, value: Any, path: str, kind: str) -> n.SetName | n.SetLiteral:
        if isinstance(value, str) and value.startswith("@"):
            return n.SetName(value[1:])
        if not isinstance(value, dict) or not isinstance(value.get("set"), list):
            raise _Bad("a map is a set of pairs, or @NAME", path, _CUT)
        return n.SetLiteral(tuple(self._element(e, f"{path}.set[{i}]", True, kind, "") for i, e in enumerate(value["set"])))

    def _mangle(self, value: Any, path: str) -> Statement:
        _object(value, path)
        key = self._expression(value.get("key"), f"{path}.key")
        return n.Mangle(key, self._expression(value.get("value"), f"{path}.value", words.datatype(key)))

    def _counter(self, value: Any, path: str) -> Statement:
        if isinstance(value, str):
            return n.Counter(name=value)
        if value is None:
            return n.Counter()
        _object(value, path)
        return n.Counter(_whole(value, "packets", path), _whole(value, "bytes", path))

    def _nat(self, kind: str) -> Callable[[Any, str], Statement]:
        def read(value: Any, path: str) -> Statement:
            value = {} if value is None else value
            _object(value, path)
            address, port = value.get("addr"), value.get("port")
            flags = _strings(value.get("flags"), f"{path}.flags")
            types = _strings(value.get("type_flags"), f"{path}.type_flags")
            return n.Nat(
                kind,
                None if address is None else self._expression(address, f"{path}.addr"),
                None if port is None else self._expression(port, f"{path}.port"),
                _optional(value, "family"),
                tuple(f for f in words.NAT_FLAGS if f in flags),
                "prefix" in types,
            )

        return read

    def _reject(self, value: Any, path: str) -> Statement:
        value = {} if value is None else value
        _object(value, path)
        kind, code = value.get("type", ""), value.get("expr", "")
        if kind not in _REJECTS:
            raise _Bad(f"unknown type {kind!r} of reject", f"{path}.type", did_you_mean(str(kind), _REJECTS))
        if (kind, code) == words.default_reject(self.family):
            return n.RejectStatement()
        return n.RejectStatement(kind, code if isinstance(code, str) else str(code))

    def _change(self, value: Any, path: str) -> Statement:
        _object(value, path)
        name = value.get("set") or value.get("map")
        if not isinstance(name, str):
            raise _Bad("a set is named", path, _CUT)
        element = self._element(value.get("elem"), f"{path}.elem", False, "", "")
        if "data" in value:
            element = Element(element.key, self._data(value["data"], f"{path}.data", ""), element.comment, element.timeout)
        inner: list[Statement] = []
        for number, raw in enumerate(_list(value, "stmt", path)):
            inner += self._statement(raw, f"{path}.stmt[{number}]")
        return n.SetChange(_text(value, "op", path), name.removeprefix("@"), element, tuple(inner))

    def _notrack(self, value: Any, path: str) -> Statement:
        return n.Notrack()

    def _log(self, value: Any, path: str) -> Statement:
        value = {} if value is None else value
        _object(value, path)
        return n.LogStatement(
            _optional(value, "prefix"), _optional(value, "level"), _whole_or_none(value, "group", path),
            _whole_or_none(value, "snaplen", path), _whole_or_none(value, "queue-threshold", path),
            _strings(value.get("flags"), f"{path}.flags"),
        )  # fmt: skip

    def _limit(self, value: Any, path: str) -> Statement:
        if isinstance(value, str):
            return n.Limit(name=value)
        _object(value, path)
        unit = _optional(value, "rate_unit") or "packets"
        return n.Limit(
            _whole(value, "rate", path), _optional(value, "per") or "second", _whole(value, "burst", path),
            bool(value.get("inv", False)), unit, _optional(value, "burst_unit") or ("packets" if unit == "packets" else "bytes"),
        )  # fmt: skip

    _STATEMENTS: Final[Mapping[str, Callable[[_Reader, Any, str], Statement]]] = {
        "match": _match,
        "vmap": _vmap,
        "mangle": _mangle,
        "counter": _counter,
        "dnat": lambda self, value, path: self._nat("dnat")(value, path),
        "snat": lambda self, value, path: self._nat("snat")(value, path),
        "masquerade": lambda self, value, path: self._nat("masquerade")(value, path),
        "redirect": lambda self, value, path: self._nat("redirect")(value, path),
        "reject": _reject,
        "set": _change,
        "map": _change,
        "notrack": _notrack,
        "log": _log,
        "limit": _limit,
    }

    # -- expressions ---------------------------------------------------------------------------------------------------

    def _expression(self, raw: Any, path: str, kind: str = "") -> Expression:
        match raw:
            case bool():
                return Value("exists" if raw else "missing")
            case int():
                return Value(raw)
            case str():
                if raw.startswith("@") and len(raw) > 1:
                    return n.SetName(raw[1:])
                if kind in _ADDRESSES and raw != "*":
                    _address(raw, path, kind)
                return Value(int(raw)) if kind == "iface_index" and raw.isascii() and raw.isdigit() else Value(raw)
            case list():
                return n.ListValue(tuple(self._expression(r, f"{path}[{i}]", kind) for i, r in enumerate(raw)))
            case dict() if len(raw) == 1:
                ((name, value),) = raw.items()
                return self._named(name, value, f"{path}.{name}", kind, raw)
            case _:
                raise _Bad("an expression is expected", path, _CUT)

    def _named(self, name: str, value: Any, path: str, kind: str, raw: dict[str, Any]) -> Expression:
        match name, value:
            case "meta", {"key": str(key)}:
                return n.Meta(key)
            case "payload", {"protocol": str(protocol), "field": str(field)}:
                return n.Payload(protocol, field)
            case "payload", {"base": str(base), "offset": int(offset), "len": int(length)}:
                return n.RawPayload(base, offset, length)
            case "ct", {"key": str(key), **more}:
                family, space, rest = key.partition(" ")
                key, family = (rest, family) if space else (key, "")
                direction = str(more.get("dir", ""))
                if not family and key in ("saddr", "daddr") and self.family in ("ip", "ip6"):
                    family = self.family
                return n.CtKey(key, direction, family)
            case "fib", {"result": str(result), "flags": flags}:
                return n.Fib(_strings(flags, path), result)
            case "numgen", {"mode": str(mode), "mod": int(modulus), **more}:
                return n.Numgen(mode, modulus, _count(more.get("offset", 0)))
            case "jhash", {"mod": int(modulus), "expr": of, **more}:
                seed = None if more.get("seed") is None else _count(more["seed"])
                return n.Hashed(self._expression(of, f"{path}.expr"), modulus, seed, _count(more.get("offset", 0)))
            case "symhash", {"mod": int(modulus), **more}:
                return n.Hashed(None, modulus, None, _count(more.get("offset", 0)))
            case "prefix", {"addr": address, "len": int(length)}:
                if not isinstance(address, str) or (kind not in _ADDRESSES and not _LIKE_ADDRESS.fullmatch(address)):
                    return n.UnknownExpression("", _dump(raw))
                if not 0 <= length <= _address(address, path, kind).bits:
                    raise _Bad(f"{address}/{length} has no valid prefix length", path)
                return n.PrefixValue(address, length)
            case "range", [low, high]:
                return n.RangeValue(self._expression(low, f"{path}[0]", kind), self._expression(high, f"{path}[1]", kind))
            case "concat", list():
                kinds = kind.split(" . ") if kind else []
                kinds += [""] * (len(value) - len(kinds))
                parts = zip(value, kinds, strict=False)
                return n.Concat(tuple(self._expression(v, f"{path}[{i}]", k) for i, (v, k) in enumerate(parts)))
            case op, [left, right] if op in _BINARY:
                return n.Binary(op, self._expression(left, f"{path}[0]", kind), self._expression(right, f"{path}[1]", kind))
            case op, [left, *rest] if op in _BINARY and len(rest) > 1:  # newer nft chains them
                made = self._expression(left, f"{path}[0]", kind)
                for number, each in enumerate(rest, 1):
                    made = n.Binary(op, made, self._expression(each, f"{path}[{number}]", kind))
                return made
            case "set", list():
                return n.SetLiteral(tuple(self._element(e, f"{path}[{i}]", False, kind, "") for i, e in enumerate(value)))
            case "map", {"key": key, "data": data}:
                read = self._expression(key, f"{path}.key")
                return n.Lookup(read, self._elements(data, f"{path}.data", words.datatype(read)))
            case ("meta" | "payload" | "ct" | "fib" | "numgen" | "prefix" | "range" | "concat" | "set" | "map"), _:
                raise _Bad(f"{name} is not as nft prints it", path, _CUT)
            case _:
                return n.UnknownExpression("", _dump(raw))


_HOOKS: Final = {hook.value.lower(): hook for hook in Hook}
_ALL_HOOKS: Final = (*_HOOKS, "ingress", "egress")


def _with_rules(chain: NftChain, rules: tuple[NftRule, ...]) -> NftChain:
    return NftChain(
        chain.name, rules, chain.type, chain.hook, chain.priority, chain.policy, chain.comment, chain.other_hook, chain.device
    )


def _dynamic(each: NftSet) -> NftSet:
    from msgspec.structs import replace

    flags = tuple(f for f in words.SET_FLAGS if f in each.flags or f == "dynamic")
    return replace(each, flags=flags)


def _verdict(raw: Any) -> n.Verdict | None:
    match raw:
        case {"accept": None} | {"drop": None} | {"continue": None} | {"return": None}:
            return n.Verdict(next(iter(raw)))
        case {"jump": {"target": str(chain)}}:
            return n.Verdict("jump", chain)
        case {"goto": {"target": str(chain)}}:
            return n.Verdict("goto", chain)
    return None


def _dump(value: Any) -> str:
    return json.dumps(value)


def _object(value: Any, path: str) -> None:
    if not isinstance(value, dict):
        raise _Bad("an object is expected", path, _CUT)


def _text(value: dict[str, Any], key: str, path: str) -> str:
    found = value.get(key)
    if not isinstance(found, str):
        raise _Bad(f"{key} is missing" if found is None else f"{key} must be a text", path, _CUT)
    return found


def _number(value: dict[str, Any], key: str, path: str) -> int:
    found = value.get(key)
    if not isinstance(found, int):
        raise _Bad(f"{key} is missing" if found is None else f"{key} must be a number", path, _CUT)
    return found


def _whole_or_none(value: dict[str, Any], key: str, path: str) -> int | None:
    return _number(value, key, path) if value.get(key) is not None else None


def _whole(value: dict[str, Any], key: str, path: str) -> int:
    return _whole_or_none(value, key, path) or 0


def _list(value: dict[str, Any], key: str, path: str) -> list[Any]:
    found = value.get(key, [])
    if not isinstance(found, list):
        raise _Bad("a list is expected", f"{path}.{key}", _CUT)
    return found


def _address(text: str, path: str, kind: str = "") -> Ip:
    try:
        found = ip(text)
    except ValueError:
        found = None
    if found is None or _ADDRESSES.get(kind, found.family) != found.family:
        what = f"an IPv{_ADDRESSES[kind]} address" if kind in _ADDRESSES else "an address"
        raise _Bad(f"{text!r} is not {what}", path, _CUT)
    return found


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _optional(value: dict[str, Any], key: str) -> str:
    found = value.get(key, "")
    return found if isinstance(found, str) else str(found)


def _strings(value: Any, path: str) -> tuple[str, ...]:
    """One text, or a list of them."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    raise _Bad("a text or a list of texts is expected", path, _CUT)


def _object_text(kind: str, body: dict[str, Any]) -> str:
    if kind == "counter" and set(body) <= {"packets", "bytes"}:
        return f"packets {body.get('packets', 0)} bytes {body.get('bytes', 0)}"
    return ""


# -- writing -----------------------------------------------------------------------------------------------------------


def write_json(tables: Iterable[NftTable]) -> str:
    """What `nft -j list ruleset` prints for these tables, without handles other than those of observed rules.

    Raises
    ------
    InputError
        For a statement that was read from text and that netlab does not know.
    """
    listed: list[Any] = [{"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": SCHEMA}}]
    for table in tables:
        head: dict[str, Any] = {"family": table.family, "name": table.name}
        if table.flags:
            head["flags"] = _one_or_list(table.flags)
        listed.append({"table": head})
        within = {"family": table.family, "table": table.name}
        for each in table.objects:
            if not each.json:
                raise _no_json(f"{each.kind} {each.name}")
            listed.append({each.kind: {"family": table.family, "name": each.name, "table": table.name, **json.loads(each.json)}})
        for made in table.sets.values():
            listed.append({"map" if made.data else "set": _set_json(made, table)})
        for chain in table.chains.values():
            described: dict[str, Any] = {**within, "name": chain.name}
            if chain.type:
                hook = chain.hook.value.lower() if chain.hook is not None else chain.other_hook
                described |= {"type": chain.type, "hook": hook}
                if chain.device:
                    described["dev"] = _one_or_list(tuple(chain.device.split(",")))
                described |= {"prio": chain.priority, "policy": chain.policy}
            listed.append({"chain": described})
        for chain in table.chains.values():
            for rule in chain.rules:
                written: dict[str, Any] = {**within, "chain": chain.name}
                if rule.handle is not None:
                    written["handle"] = rule.handle
                if rule.comment:
                    written["comment"] = rule.comment
                written["expr"] = [_statement_json(s, table.family, table.sets) for s in rule.statements]
                listed.append({"rule": written})
    return json.dumps({"nftables": listed}) + "\n"


def _no_json(what: str) -> InputError:
    return InputError(f"{what} cannot be written as JSON of nft", None, "it was read from text: write text")


def _one_or_list(values: tuple[str, ...]) -> str | list[str]:
    return values[0] if len(values) == 1 else list(values)


def _set_json(made: NftSet, table: NftTable) -> dict[str, Any]:
    described: dict[str, Any] = {"family": table.family, "name": made.name, "table": table.name, "type": _one_or_list(made.type)}
    if made.comment:
        described["comment"] = made.comment
    if made.data:
        described["map"] = " . ".join(made.data).removeprefix("interval ")
    if made.policy:
        described["policy"] = made.policy
    if made.size is not None:
        described["size"] = made.size
    flags = [f for f in made.flags if f != "dynamic"]
    if flags:
        described["flags"] = flags
    if made.timeout is not None:
        described["timeout"] = made.timeout
    if made.gc_interval is not None:
        described["gc-interval"] = made.gc_interval
    if made.auto_merge:
        described["auto-merge"] = True
    if made.elements:
        kind, data_kind = " . ".join(made.type), " . ".join(made.data)
        described["elem"] = [_element_json(e, kind, data_kind) for e in made.elements]
    if made.statements:
        described["stmt"] = [_statement_json(s, table.family, {}, in_set=True) for s in made.statements]
    return described


def _element_json(element: Element, kind: str = "", data_kind: str = "") -> Any:
    key: Any = _expression_json(element.key, kind)
    if element.comment or element.timeout is not None or element.expires is not None or element.statements:
        inner: dict[str, Any] = {"val": key}
        if element.timeout is not None:
            inner["timeout"] = int(element.timeout)
        if element.expires is not None:
            inner["expires"] = int(element.expires)
        if element.comment:
            inner["comment"] = element.comment
        for statement in element.statements:
            inner |= _statement_json(statement, "ip", {})
        key = {"elem": inner}
    match element.data:
        case None:
            return key
        case n.Verdict() as verdict:
            return [key, _verdict_json(verdict)]
        case data:
            return [key, _expression_json(data, data_kind)]


def _verdict_json(verdict: n.Verdict) -> dict[str, Any]:
    return {verdict.kind: {"target": verdict.chain} if verdict.kind in ("jump", "goto") else None}


def _statement_json(statement: Statement, family: str, sets: words.Sets, *, in_set: bool = False) -> Any:
    match statement:
        case n.Verdict():
            return _verdict_json(statement)
        case n.Compare(left=left, op=op, right=right):
            kind = words.datatype(left, sets)
            return {"match": {"op": op, "left": _expression_json(left), "right": _expression_json(right, kind)}}
        case n.Vmap(key=key, data=data):
            return {"vmap": {"key": _expression_json(key), "data": _expression_json(data, words.datatype(key, sets))}}
        case n.Mangle(key=key, value=value):
            return {"mangle": {"key": _expression_json(key), "value": _expression_json(value, words.datatype(key, sets))}}
        case n.Counter(packets=packets, bytes=size, name=name):
            return {"counter": name or (None if in_set else {"packets": packets, "bytes": size})}
        case n.Nat(kind=kind, address=address, port=port):
            described: dict[str, Any] = {"family": statement.family} if statement.family else {}
            if address is not None:
                described["addr"] = _expression_json(address)
            if port is not None:
                described["port"] = _expression_json(port)
            flags = (("netmap",) if statement.prefix else ()) + statement.flags
            if flags:
                described["flags"] = _one_or_list(flags)
            if statement.prefix:
                described["type_flags"] = "prefix"
            return {kind: described or None}
        case n.RejectStatement(type=kind, code=code):
            if not kind:
                kind, code = words.default_reject(family)
            return {"reject": {"type": kind, "expr": code} if code else {"type": kind}}
        case n.SetChange(op=op, set=name, element=element, statements=statements):
            known = sets.get(name)
            if element.data is not None:
                return words.statement_text(statement, family, sets)  # as nft 1.0.6 prints it
            key = _element_json(element, " . ".join(known.type) if known is not None else "")
            change: dict[str, Any] = {"op": op, "elem": key, "set": f"@{name}"}
            if statements:
                change["stmt"] = [_statement_json(s, family, sets, in_set=True) for s in statements]
            return {"set": change}
        case n.Notrack():
            return {"notrack": None}
        case n.LogStatement():
            return {"log": _log_json(statement) or None}
        case n.Limit():
            return {"limit": statement.name or _limit_json(statement)}
        case n.UnknownStatement(text=text, json=raw):
            if not raw:
                raise _no_json(f"statement `{text}`")
            return json.loads(raw)


def _log_json(statement: n.LogStatement) -> dict[str, Any]:
    described: dict[str, Any] = {}
    if statement.prefix:
        described["prefix"] = statement.prefix
    if statement.group is not None:
        described["group"] = statement.group
    if statement.snaplen is not None:
        described["snaplen"] = statement.snaplen
    if statement.threshold is not None:
        described["queue-threshold"] = statement.threshold
    if statement.level:
        described["level"] = statement.level
    if statement.flags:
        described["flags"] = _one_or_list(statement.flags)
    return described


def _limit_json(statement: n.Limit) -> dict[str, Any]:
    described: dict[str, Any] = {"rate": statement.rate, "burst": statement.burst, "per": statement.per}
    if statement.over:
        described["inv"] = True
    if statement.unit != "packets":
        described |= {"rate_unit": statement.unit, "burst_unit": statement.burst_unit}
    return described


def _expression_json(expression: Expression, kind: str = "") -> Any:
    match expression:
        case Value(value=value):
            if value in ("missing", "exists"):
                return value == "exists"
            return str(value) if kind == "iface_index" else value
        case n.Meta(key=key):
            return {"meta": {"key": key}}
        case n.Payload(protocol=protocol, field=field):
            return {"payload": {"protocol": protocol, "field": field}}
        case n.RawPayload(base=base, offset=offset, length=length):
            return {"payload": {"base": base, "offset": offset, "len": length}}
        case n.CtKey(key=key, direction=direction, family=family):
            ct: dict[str, Any] = {"key": f"{family} {key}" if family else key}
            if direction:
                ct["dir"] = direction
            return {"ct": ct}
        case n.Fib(flags=flags, result=result):
            return {"fib": {"result": result, "flags": list(flags)}}
        case n.Numgen(mode=mode, modulus=modulus, offset=offset):
            return {"numgen": {"mode": mode, "mod": modulus, "offset": offset}}
        case n.Hashed(of=of, modulus=modulus, seed=seed, offset=offset):
            hashed: dict[str, Any] = {"mod": modulus}
            if seed is not None:
                hashed["seed"] = seed
            if offset:
                hashed["offset"] = offset
            if of is not None:
                hashed["expr"] = _expression_json(of)
            return {"symhash" if of is None else "jhash": hashed}
        case n.PrefixValue(address=address, length=length):
            return {"prefix": {"addr": address, "len": length}}
        case n.RangeValue(low=low, high=high):
            return {"range": [_expression_json(low, kind), _expression_json(high, kind)]}
        case n.ListValue(parts=parts):
            return [_expression_json(part, kind) for part in parts]
        case n.Concat(parts=parts):
            kinds = kind.split(" . ") if kind else []
            kinds += [""] * (len(parts) - len(kinds))
            return {"concat": [_expression_json(p, k) for p, k in zip(parts, kinds, strict=False)]}
        case n.Binary(op=op, left=left, right=right):
            return {op: [_expression_json(left, kind), _expression_json(right, kind)]}
        case n.SetName(name=name):
            return f"@{name}"
        case n.SetLiteral(elements=elements):
            return {"set": [_element_json(e, kind) for e in elements]}
        case n.Lookup(key=key, data=data):
            return {"map": {"key": _expression_json(key), "data": _expression_json(data, words.datatype(key))}}
        case n.UnknownExpression(text=text, json=raw):
            if not raw:
                raise _no_json(f"expression `{text}`")
            return json.loads(raw)
