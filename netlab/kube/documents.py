"""From files to documents: JSON and YAML, Lists, directories, stdin; each document knows where it stands.

Law: a file is refused by its size and first bytes before it is read whole, JSON is never turned into dicts (msgspec decodes
the fields that are read, nothing else), and every failure is one InputError with file, line or items[i], and field.
What a kind means is not known here (load.py).
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TextIO, TypeVar

import msgspec

from netlab.errors import InputError
from netlab.linux.addr import Ip, Prefix, ip, prefix
from netlab.refs import Ref

SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 1 << 30
MAX_YAML_BYTES = 64 << 20
MOST_FILES = 50_000  # under a directory, manifests or not
_HEAD = 1 << 16
_EXPLAINED = 16 << 20  # a larger JSON value is not read whole only to say more about what is wrong with it
_SPACE = b" \t\r\n"

T = TypeVar("T")


class Source(msgspec.Struct, frozen=True):
    """A file that was read: its name as the user wrote it, and its text where that is YAML (to find lines in it)."""

    name: str
    yaml: bytes | None = None


class Document(msgspec.Struct, frozen=True):
    """One object as it stands in a file: `raw` is undecoded JSON or a YAML tree; kind "" for what is not an object."""

    source: Source
    raw: Any
    kind: str = ""
    api_version: str = ""
    number: int | None = None
    line: int | None = None
    path: str | None = None
    lines: Mapping[int, int] = {}  # yamltext.YamlDocument.lines

    def ref(self, object: str | None = None, path: str = "") -> Ref:
        """Where it stands; `path` is a field inside it."""
        full = f"{self.path}.{path}" if self.path and path else self.path or path or None
        return Ref(file=self.source.name, line=self.line, document=self.number, path=full, object=object)

    def decode(self, type: type[T]) -> T:
        """Decode into a wire type; raises InputError with the field that is wrong."""
        try:
            if isinstance(self.raw, msgspec.Raw):
                return msgspec.json.decode(self.raw, type=type)
            return msgspec.convert(self.raw, type)
        except msgspec.ValidationError as error:
            raise self.wrong(str(error), type) from None
        except UnicodeDecodeError:
            raise InputError("invalid UTF-8 inside a string", self.ref(self.title())) from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise InputError(f"not JSON: {error}", self.ref(self.title())) from None

    def tree(self) -> Any:
        """The whole value as plain dicts and lists."""
        return msgspec.json.decode(self.raw) if isinstance(self.raw, msgspec.Raw) else self.raw

    def _large(self) -> bool:
        return isinstance(self.raw, msgspec.Raw) and memoryview(self.raw).nbytes > _EXPLAINED

    def title(self) -> str | None:
        """ "Service default/web": for errors, so it never fails."""
        if self._large():
            return self.kind or None
        try:
            meta = self.tree().get("metadata") or {}
            name, namespace = meta.get("name") or meta.get("generateName"), meta.get("namespace")
        except (AttributeError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self.kind or None
        if not name:
            return self.kind or None
        return f"{self.kind} {namespace}/{name}" if namespace else f"{self.kind} {name}"

    def wrong(self, message: str, type: Any = None) -> InputError:
        """The InputError for a msgspec message such as "Expected `str`, got `int` - at `$.spec.ports[0].name`"."""
        what, _, where = message.partition(" - at `")
        if self._large():
            path, found = (
                tuple(step for step in steps(where.rstrip("`").removeprefix("$").removeprefix(".")) if step != ""),
                _MISSING,
            )
        else:
            path, found = _walk(self.tree(), where.rstrip("`"), what)
        text, hint = _plain_words(what, found, type, path)
        if unknown := _UNKNOWN.search(what):
            path = (*path, unknown[1])
        ref = self.ref(self.title(), _dotted(path))
        if self.source.yaml is not None and self.number is not None:
            from netlab.kube.yamltext import line_of

            within = tuple(steps(self.path)) if self.path else ()
            line = line_of(self.source.yaml, self.number, within + path)
            ref = msgspec.structs.replace(ref, line=line or ref.line)
        return InputError(text, ref, hint)


class At:
    """An object while it is read: what its fields may hold, and where they stand when they do not."""

    def __init__(self, document: Document, title: str) -> None:
        self.document = document
        self.ref = document.ref(title)

    @cached_property
    def tree(self) -> Any:
        """The whole object as plain dicts and lists."""
        return self.document.tree()

    def error(self, what: str, path: str, hint: str | None = None) -> InputError:
        """An error in the field `path`."""
        ref = self.document.ref(self.ref.object, path)
        if self.document.source.yaml is not None and self.document.number is not None:
            from netlab.kube.yamltext import line_of

            line = line_of(self.document.source.yaml, self.document.number, tuple(steps(ref.path or "")))
            ref = msgspec.structs.replace(ref, line=line or ref.line)
        return InputError(what, ref, hint)

    def at(self, path: str) -> Ref:
        """Where the field `path` stands: with its line if it is an item of a list in a policy."""
        ref = self.document.ref(self.ref.object, path)
        if not self.document.lines:
            return ref
        tree: Any = self.document.raw
        for step in steps(path):
            tree = tree.get(step) if isinstance(tree, dict) else tree[step] if isinstance(step, int) else None
        return msgspec.structs.replace(ref, line=self.document.lines.get(id(tree), ref.line))

    def ip(self, text: str, path: str) -> Ip:
        try:
            return ip(text)
        except ValueError:
            raise self.error(f'"{text}" is not an IP address', path) from None

    def prefix(self, text: str, path: str) -> Prefix:
        try:
            return prefix(text.strip())
        except ValueError:
            raise self.error(f'"{text}" is not a CIDR', path, "such as 10.0.0.0/8") from None

    def one_of(self, value: str, known: Collection[str], path: str) -> str:
        if value not in known:
            from netlab.errors import did_you_mean

            hint = did_you_mean(value, known) or f"known: {', '.join(known)}"
            raise self.error(f'unknown value "{value}"', path, hint)
        return value


# --- words for msgspec's messages ----------------------------------------------------------------------------

_TYPES = {
    "str": "a string",
    "int": "an integer",
    "bool": "a boolean",
    "float": "a number",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}
_PYTHON = {"str": str, "int": int, "bool": bool, "float": float, "array": list, "object": dict}
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]|(\[\.\.\.\])")
_UNKNOWN = re.compile(r"unknown field `([^`]+)`")
_MISSING = object()


def steps(path: str) -> Iterator[str | int]:
    """`items[3].spec` -> "items", 3, "spec"."""
    for name, index, _ in _STEP.findall("." + path):
        yield int(index) if index else name


def _dotted(path: tuple[str | int, ...]) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f"[{step!r}]" if re.search(r"[^\w-]", step) else f".{step}"
    return text.lstrip(".")


def _walk(tree: Any, where: str, what: str) -> tuple[tuple[str | int, ...], Any]:
    """Follow msgspec's path; where it says [...] (some key of a map) find the entry that the message speaks of."""
    steps: list[str | int] = []
    got = re.search(r"got `(\w+)`", what)
    wanted = _PYTHON.get(got[1]) if got else None
    for name, index, any_key in _STEP.findall(where.removeprefix("$")):
        if any_key:
            if not isinstance(tree, dict):
                break
            keys = [k for k, v in tree.items() if (type(v) is wanted if wanted else v is None)]
            if not keys:
                break
            steps.append(keys[0])
            tree = tree[keys[0]]
        elif index:
            if not isinstance(tree, list) or int(index) >= len(tree):
                break
            steps.append(int(index))
            tree = tree[int(index)]
        else:
            if not isinstance(tree, dict):
                break
            steps.append(name)
            tree = tree.get(name, _MISSING)
    return tuple(steps), tree


def _plain_words(what: str, found: Any, type: Any, path: tuple[str | int, ...]) -> tuple[str, str | None]:
    """Say it as a person would."""
    unknown = _UNKNOWN.search(what)
    if unknown:
        from netlab.errors import did_you_mean

        fields = _fields(type, path)
        hint = did_you_mean(unknown[1], fields) or (f"known here: {', '.join(sorted(fields))}" if fields else None)
        return f'unknown field "{unknown[1]}"', hint
    missing = re.search(r"missing required field `([^`]+)`", what)
    if missing:
        return f'the field "{missing[1]}" is missing', None
    kinds = re.match(r"Expected `([^`]+)`(?:, got `([^`]+)`)?(.*)", what)
    if not kinds:
        return what[:1].lower() + what[1:], None
    wanted = [_TYPES.get(k, k) for k in kinds[1].split(" | ") if k != "null"]
    shown = "" if isinstance(found, (dict, list)) or found is _MISSING else f" ({msgspec.json.encode(found).decode()})"
    if not kinds[2]:
        return f"expected {' or '.join(wanted)}{kinds[3]}, found {shown.strip(' ()') or 'something else'}", None
    hint = None
    if "a string" in wanted and isinstance(found, bool):
        hint = "YAML reads yes, no, on, off, y, n, true and false as booleans: put it in quotes"
    elif "a string" in wanted and isinstance(found, (int, float)):
        hint = f'put it in quotes: "{found}"'
    elif "an integer" in wanted and isinstance(found, str) and found.isdigit():
        hint = f"write it without quotes: {found}"
    return f"expected {' or '.join(wanted)}, found {_TYPES.get(kinds[2], kinds[2])}{shown}", hint


def _fields(type: Any, path: tuple[str | int, ...]) -> list[str]:
    """The field names of the struct that stands at `path` of `type`, as the file spells them."""
    for step in path:
        type = _struct(type)
        if type is None or isinstance(step, int):
            continue
        type = next((f.type for f in msgspec.structs.fields(type) if f.encode_name == step), None)
    type = _struct(type)
    return [f.encode_name for f in msgspec.structs.fields(type)] if type is not None else []


def _struct(type: Any) -> Any:
    """The Struct inside `list[X] | None` and the like; None where there is none."""
    if isinstance(type, type_) and issubclass(type, msgspec.Struct):
        return type
    for part in getattr(type, "__args__", ()):
        found = _struct(part)
        if found is not None:
            return found
    return None


type_ = type


# --- reading -------------------------------------------------------------------------------------------------


def read_documents(paths: Sequence[str], stdin: TextIO | None = None) -> Iterator[Document]:
    """Yield every object of files, directories (recursively) and "-" (stdin), Lists unrolled, in a fixed order.

    Parameters
    ----------
    paths : sequence of str
        As given to ``-f``. Documents without a kind are yielded with kind "" when they come from a directory and are an
        error when their file was named.
    stdin : TextIO, optional
        What "-" reads.

    Raises
    ------
    InputError
        Missing, unreadable, empty, binary, truncated or malformed input.
    """
    if list(paths).count("-") > 1:
        raise InputError('"-f -" is given twice', None, "stdin can be read once")
    for path in paths:
        if path == "-":
            if stdin is None:
                raise InputError('"-f -" but there is no stdin')
            stream: Any = getattr(stdin, "buffer", None) or io.BytesIO(stdin.read().encode())
            yield from _documents(_read(stream, "-", None), "-", named=True)
        elif os.path.isdir(path):
            files = list(_files(path))
            if not files:
                raise InputError("no *.yaml, *.yml or *.json in this directory", Ref(file=path))
            for file in files:
                yield from _documents(_open(file), file, named=False)
        else:
            yield from _documents(_open(path), path, named=True)


def text_documents(text: str, name: str) -> Iterator[Document]:
    """Yield every object of a text, which `name` stands for in messages; raises InputError as `read_documents`."""
    yield from _documents(_read(io.BytesIO(text.encode(errors="replace")), name, None), name, named=True)


def _files(directory: str) -> Iterator[str]:
    """The manifests under a directory, sorted, so that the answer never depends on the file system's order."""

    def fail(error: OSError) -> None:
        raise InputError(f"cannot read the directory: {error.strerror}", Ref(file=error.filename or directory)) from None

    seen = 0
    for folder, folders, names in os.walk(directory, onerror=fail):
        folders.sort()
        seen += len(names)
        if seen > MOST_FILES:
            hint = "name the directory that has the manifests"
            raise InputError(f"more than {MOST_FILES:,} files lie under this directory", Ref(file=directory), hint)
        for name in sorted(names):
            if name.endswith(SUFFIXES):
                yield os.path.join(folder, name)


def _open(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return _read(stream, path, os.fstat(stream.fileno()).st_size)
    except FileNotFoundError:
        from netlab.errors import did_you_mean

        folder = os.path.dirname(path)
        try:
            near = did_you_mean(os.path.basename(path), os.listdir(folder or "."))
        except OSError:
            near = None
        raise InputError("no such file or directory", Ref(file=path), near) from None
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", Ref(file=path)) from None


def _read(stream: Any, name: str, size: int | None) -> bytes:
    """Read a file whose first bytes look like text that netlab reads; `size` in bytes where it is known."""
    ref = Ref(file=name)
    head: bytes = stream.read(_HEAD)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # `kubectl ... > file` in Windows PowerShell writes UTF-16
        wide = head + stream.read(MAX_YAML_BYTES)
        try:
            return bytes(wide.decode("utf-16"), "utf-8")
        except UnicodeDecodeError:
            raise InputError("neither UTF-8 nor UTF-16 text", ref) from None
    bom = head.startswith(b"\xef\xbb\xbf")
    head = head.removeprefix(b"\xef\xbb\xbf")
    if head.startswith(b"\x1f\x8b"):
        raise InputError("compressed with gzip", ref, "unpack it first: gunzip FILE")
    if b"\0" in head:
        raise InputError("a binary file, neither JSON nor YAML", ref)
    _check_utf8(head, ref, final=len(head) < _HEAD - 3)
    json = head.lstrip(_SPACE)[:1] in (b"{", b"[")
    limit = MAX_BYTES if json else MAX_YAML_BYTES
    if (size or 0) > limit:
        raise _too_large(json, ref)
    if not json and (size or 0) > 1 << 20 and not _looks_like_yaml(head):
        raise InputError("neither JSON nor YAML of Kubernetes objects", ref)
    if size and not bom and stream.seekable():
        stream.seek(0)
        whole: bytes = stream.read(size)
        if not json:
            _check_utf8(whole, ref, final=True)
        return whole
    parts, total = [head], len(head)
    while part := stream.read(1 << 22):
        parts.append(part)
        total += len(part)
        if total > limit:
            raise _too_large(json, ref)
    text: bytes = b"".join(parts) if len(parts) > 1 else head
    if not json:
        _check_utf8(text, ref, final=True)
    return text


def _check_utf8(text: bytes, ref: Ref, final: bool) -> None:
    try:
        text.decode() if final else text[:-3].decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        if not final and error.reason == "unexpected end of data":
            return
        line = text.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"invalid UTF-8 at byte {error.start}", msgspec.structs.replace(ref, line=line), "netlab reads JSON and YAML in UTF-8"
        ) from None


def _too_large(json: bool, ref: Ref) -> InputError:
    if json:
        return InputError(f"larger than {MAX_BYTES >> 30} GiB", ref)
    return InputError(f"YAML larger than {MAX_YAML_BYTES >> 20} MiB", ref, "write it as JSON: kubectl get ... -o json")


def _looks_like_yaml(head: bytes) -> bool:
    """Whether the first line that says something could begin a map: a cheap look before reading megabytes."""
    for line in head.splitlines():
        text = line.strip()
        if text and not text.startswith((b"#", b"---", b"%")):
            return b":" in text and not text.startswith((b"- ", b"? "))
    return True


def _documents(text: bytes, name: str, named: bool) -> Iterator[Document]:
    first = text.lstrip(_SPACE)[:1] if text[:1] in _SPACE else text[:1]
    if not first:
        return
    if first in (b"{", b"["):
        yield from _json(text, name, named)
    else:
        yield from _yaml(text, name, named)


# --- JSON ----------------------------------------------------------------------------------------------------


class _Head(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    kind: str | None = None
    api_version: str | None = None


class _Items(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    kind: str | None = None
    api_version: str | None = None
    items: list[msgspec.Raw] | None = None


_FIRST = re.compile(rb'\s*\{\s*"apiVersion"\s*:\s*"([\w./-]+)"\s*,\s*"kind"\s*:\s*"([A-Za-z]+)"\s*[,}]')
_head = msgspec.json.Decoder(_Head | None)
_items = msgspec.json.Decoder(_Items)


def _json(text: bytes, name: str, named: bool) -> Iterator[Document]:
    """The JSON values of a file, one after another (`kubectl get ... >> file` appends)."""
    try:
        top = _items.decode(text)  # what kubectl prints: one List; one pass finds its items
        if top.kind is not None and top.kind.endswith("List"):
            yield from _each(Document(Source(name), None, api_version=top.api_version or ""), top)
            return
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # anything else, and every error, is the slower path's business
    view = memoryview(text)
    at, number = 0, 1
    while at < len(view):
        try:
            raw = msgspec.json.decode(view[at:], type=msgspec.Raw)
            end = len(view)
        except RecursionError:
            raise InputError("nested too deeply", Ref(file=name), "this is not a Kubernetes object") from None
        except msgspec.DecodeError as error:
            trailing = re.search(r"trailing characters \(byte (\d+)\)", str(error))
            end = at + int(trailing[1]) - 1 if trailing else at  # msgspec counts past the character it stumbled on
            if trailing is None or text[end : end + 1] == b"-":  # JSON documents between --- lines are YAML
                yield from _not_json(text, name, named, at, number, error)
                return
            raw = msgspec.Raw(view[at:end])
        whole = number == 1 and end == len(view)
        source = Source(name)
        yield from _unroll(Document(source, raw, number=None if whole else number), named)
        at, number = end, number + 1


def _not_json(text: bytes, name: str, named: bool, at: int, number: int, error: Exception) -> Iterator[Document]:
    """What begins with a brace may still be YAML (flow style); otherwise say where the JSON ends."""
    reason = str(error).removeprefix("JSON is malformed: ")
    if number == 1 and len(text) <= 1 << 20 and not name.endswith(".json"):
        try:
            documents = list(_yaml(text, name, named))
        except InputError:
            pass
        else:
            yield from documents
            return
    ref = Ref(file=name, document=number if number > 1 else None)
    if "truncated" in reason:
        line = text.count(b"\n") + 1
        raise InputError(
            f"the JSON ends in the middle, after {len(text):,} bytes",
            msgspec.structs.replace(ref, line=line),
            "the dump is truncated: was kubectl interrupted?",
        )
    byte = re.search(r" \(byte (\d+)\)", reason)
    if byte:
        line = text.count(b"\n", 0, at + int(byte[1])) + 1
        ref, reason = msgspec.structs.replace(ref, line=line), reason[: byte.start()]
    hint = "is this a Helm template? render it first: helm template ..." if b"{{" in text[:_HEAD] else None
    raise InputError(f"not JSON: {reason}", ref, hint)


def _unroll(document: Document, named: bool, inferred: str = "", api_version: str = "") -> Iterator[Document]:
    """A JSON value as objects: a List as its items."""
    # kubectl prints apiVersion and kind first: no need to scan the whole object for them
    start = _FIRST.match(memoryview(document.raw)[:256])
    try:
        head = _Head(str(start[2], "utf-8"), str(start[1], "utf-8")) if start else _head.decode(document.raw)
    except msgspec.ValidationError as error:
        yield from _no_object(document, named, document.wrong(str(error)))
        return
    except UnicodeDecodeError:
        raise InputError("invalid UTF-8 inside a string", document.ref()) from None
    kind = (head.kind if head else None) or inferred
    api_version = (head.api_version if head else None) or api_version
    if head is None or not kind:
        yield from _no_object(document, named, None)
        return
    document = msgspec.structs.replace(document, kind=kind, api_version=api_version)
    if not kind.endswith("List"):
        yield document
        return
    try:
        top = _items.decode(document.raw)
    except msgspec.ValidationError as error:
        raise document.wrong(str(error)) from None
    yield from _each(document, msgspec.structs.replace(top, kind=kind))


def _each(document: Document, top: _Items) -> Iterator[Document]:
    """The items of a List; those of a typed list (PodList) carry no kind of their own."""
    kind = (top.kind or "").removesuffix("List")
    for i, raw in enumerate(top.items or ()):
        path = f"{document.path}.items[{i}]" if document.path else f"items[{i}]"
        item = Document(document.source, raw, number=document.number, path=path)
        yield from _unroll(item, True, kind, document.api_version)


def _no_object(document: Document, named: bool, error: InputError | None) -> Iterator[Document]:
    """Something without a kind: passed over in a directory (package.json, values.yaml), an error in a file that was named."""
    if not named:
        yield document
        return
    raise error or InputError(
        "not a Kubernetes object: it has no kind", document.ref(), "expected manifests, or the output of kubectl get ... -o json"
    )


# --- YAML ----------------------------------------------------------------------------------------------------


def _yaml(text: bytes, name: str, named: bool) -> Iterator[Document]:
    from netlab.kube import yamltext

    source = Source(name, text)
    for found in yamltext.read(text, name):
        document = Document(source, found.value, number=found.number, line=found.line, lines=found.lines)
        yield from _unroll_tree(document, named, found.item_lines)


def _unroll_tree(
    document: Document, named: bool, lines: Sequence[int] = (), inferred: str = "", api_version: str = ""
) -> Iterator[Document]:
    """A YAML value as objects: a List as its items."""
    tree = document.raw
    kind = tree.get("kind") or inferred if isinstance(tree, dict) else None
    version = tree.get("apiVersion") or api_version if isinstance(tree, dict) else None
    if not kind or not isinstance(kind, str) or not isinstance(version, str):
        error = None
        if kind:
            field, value = ("apiVersion", version) if isinstance(kind, str) else ("kind", kind)
            error = InputError(f"expected a string, found {msgspec.json.encode(value).decode()[:40]}", document.ref(path=field))
        yield from _no_object(document, named, error)
        return
    document = msgspec.structs.replace(document, kind=kind, api_version=version)
    if not kind.endswith("List"):
        yield document
        return
    items = tree.get("items")
    if items is not None and not isinstance(items, list):
        raise document.wrong(
            "Expected `array`, got `object` - at `$.items`" if isinstance(items, dict) else "items is not a list"
        )
    for i, item in enumerate(items or []):
        path = f"{document.path}.items[{i}]" if document.path else f"items[{i}]"
        line = lines[i] if len(lines) == len(items or []) else document.line
        inner = Document(document.source, item, number=document.number, line=line, path=path, lines=document.lines)
        yield from _unroll_tree(inner, True, (), kind.removesuffix("List"), version)
