"""The page: one bundle (cytoscape.min.js, page.js, style.css) and its data as JSON, in three shapes.

    document(data)      one self-contained file, for `-o html`: opens from disk, asks the network for nothing
    script(), style()   the bundle itself, for a server to host: `netlabPage.render(element, data)`
    module()            the same as an ES module with `render({model, el})`, as anywidget mounts it

Law: what comes from manifests and dumps is data, never markup: it is in one JSON block, escaped so that no text can end the
block, and page.js writes text nodes alone. The document's policy (CSP) allows the bundle by its hashes and nothing else whatever.
"""

from __future__ import annotations

import base64
import hashlib
import html
from functools import cache
from importlib.resources import files

CYTOSCAPE = "3.34.4"  # cytoscape.min.js as published on npm, MIT licence: cytoscape.LICENSE beside it

# What could end a script element or, in old engines, a line of JavaScript; all are fine inside JSON's strings when escaped.
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@cache
def _file(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def script() -> str:
    """The JavaScript of the bundle: afterwards `netlabPage.render(element, data, options)` is there."""
    return f"{_file('cytoscape.min.js')}\n{_file('page.js')}"


def style() -> str:
    """The style sheet of the bundle; every rule of it is below the class `netlab`."""
    return _file("style.css")


def module() -> str:
    """An ES module for anywidget: the trait `page` holds the data as JSON's own types; `step` follows the step that is shown."""
    # UMD asks for module loaders, which notebooks have; there are none in here
    return (
        "const netlabPage = (function () {\n  const self = globalThis, window = globalThis;\n"
        "  let define, exports, module;\n  (function () {\n" + _file("cytoscape.min.js") + "\n  }).call(globalThis);\n"
        + _file("page.js") + "\n  return globalThis.netlabPage;\n})();\n" + _file("widget.js")
    )  # fmt: skip


def embed(data: bytes | str) -> str:
    r"""JSON that can stand inside a script element: no text in it can end the element or begin a comment.

    >>> embed('{"name": "</script><!--"}')
    '{"name": "\\u003c/script\\u003e\\u003c!--"}'
    """
    text = data.decode() if isinstance(data, bytes) else data
    for char, escaped in _UNSAFE.items():
        text = text.replace(char, escaped)
    return text


def document(data: bytes | str, title: str, summary: str) -> str:
    """The whole page.

    Parameters
    ----------
    data : bytes or str
        The page's value as JSON (`render.page.to_json`).
    title, summary : str
        For the window's title, and for those without scripts.
    """
    code, sheet, start = script(), style(), _file("start.js")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(code)} {_hash(start)}",
            f"style-src {_hash(sheet)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    text = _file("template.html")
    parts = {
        "POLICY": html.escape(policy),
        "TITLE": html.escape(title),
        "SUMMARY": html.escape(summary),
        "STYLE": sheet,
        "DATA": embed(data),
        "SCRIPT": code,
        "START": start,
    }
    first, *rest = text.split("{{")  # in one pass: what is put in is not searched again
    made = [first]
    for part in rest:
        name, _, after = part.partition("}}")
        made += [parts[name], after]
    return "".join(made)


def _hash(content: str) -> str:
    """A source expression of CSP: the element's content must be this, byte for byte."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
