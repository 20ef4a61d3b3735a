"""A network's layout as a picture, SVG, and as a page of its own that needs no script.

Law: positions come from layout.py alone; every name is escaped text. The picture follows the reader's light or dark
setting, and a dashed border says what colour says.
"""

from __future__ import annotations

import base64
import hashlib
import html

from netlab.linux.network import Network
from netlab.render.columns import clean
from netlab.render.layout import Box, Layout, everything, layout

_MARGIN = 12
_STYLE = """\
svg{--ink:#1b2430;--soft:#566274;--line:#aab6c5;--page:#fff;--machine:#f7f9fc;--box:#fff;--kernel:#eef2f8;--pod:#e6f1ff;\
--bridge:#e9f6ec;--overlay:#fdf1dc;--fabric:#e8eaf0;font-family:system-ui,"DejaVu Sans",sans-serif}
@media (prefers-color-scheme:dark){svg{--ink:#e6ebf2;--soft:#a3b0c2;--line:#56647c;--page:#10151d;--machine:#1a232f;\
--box:#202b3a;--kernel:#243147;--pod:#1d3557;--bridge:#1f3a2b;--overlay:#41321a;--fabric:#2a3342}}
text{fill:var(--ink);text-anchor:middle;font-size:12px;font-weight:600}text.d{fill:var(--soft);font-size:10px;font-weight:400}
rect{stroke:var(--line);fill:var(--box)}line{stroke:var(--line);stroke-width:1.5}.page{fill:var(--page);stroke:none}
.machine rect{fill:var(--machine)}.kernel rect{fill:var(--kernel)}.pod rect,.hostpod rect,.outside rect{fill:var(--pod)}
.bridge rect{fill:var(--bridge)}
.overlay rect{fill:var(--overlay)}.segment rect{fill:var(--fabric)}
.port text{font-size:9.5px;font-weight:400}
.badge rect,line.dim{stroke-dasharray:4 3}.badge rect{fill:none}.badge text{fill:var(--soft)}"""
_ROUND = {"machine": 12, "port": 10, "segment": 20}
_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src {hashes}; img-src data:">
<meta name="color-scheme" content="light dark"><title>{title}</title><link rel="icon" href="data:,">
<style>{style}</style></head>
<body><h1>{title}</h1><p>{summary}</p><div class="scroll" tabindex="0" role="region" aria-label="The drawing">
{picture}
</div><h2>As text</h2>
{listed}
</body></html>"""
_PAGE_STYLE = """\
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,"DejaVu Sans",sans-serif;margin:1.2rem}h1{font-size:1.3rem;margin:0}
h2{font-size:1.1rem}p{margin:.3rem 0 1rem}.scroll{overflow-x:auto}svg{display:block;max-width:none}"""


def graph_svg(network: Network, title: str = "The network") -> str:
    """The picture of a whole network: its nodes and what is in them, the fabric, the outside.

    Parameters
    ----------
    network : Network
    title : str
        What the picture is called, for those who hear it.

    Returns
    -------
    str
        An SVG document.
    """
    return svg(layout(network, everything(network)), title)


def graph_html(network: Network, title: str = "The network") -> str:
    """A page with the picture, and the same as a list; one file, no script, no request."""
    made = layout(network, everything(network))
    policy = " ".join(_hash(style) for style in (_PAGE_STYLE, _STYLE))
    return _PAGE.format(
        hashes=html.escape(policy, quote=True),
        title=_text(title),
        style=_PAGE_STYLE,
        summary=_text(_summary(made)),
        picture=svg(made, title),
        listed=_listed(made),
    )


def svg(made: Layout, title: str) -> str:
    """A layout as an SVG document."""
    width, height = made.width + 2 * _MARGIN, made.height + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" viewBox="{-_MARGIN} {-_MARGIN} {width:g} '
        f'{height:g}" role="img" aria-label="{_text(f"{title}: {_summary(made)}")}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" x="{-_MARGIN}" y="{-_MARGIN}" width="{width:g}" height="{height:g}"/>',
    ]
    parts += [_box(box) for box in made.boxes if box.kind == "machine"]
    for wire in made.wires:
        dim = ' class="dim"' if wire.dim else ""
        parts.append(f'<line{dim} x1="{wire.x1:g}" y1="{wire.y1:g}" x2="{wire.x2:g}" y2="{wire.y2:g}"/>')
    parts += [_box(box) for box in made.boxes if box.kind != "machine"]
    return "\n".join([*parts, "</svg>"])


def _box(box: Box) -> str:
    x, y = box.x - box.w / 2, box.y - box.h / 2
    round_ = _ROUND.get(box.kind, 6)
    rect = f'<rect x="{x:g}" y="{y:g}" width="{box.w:g}" height="{box.h:g}" rx="{round_}"/>'
    if box.kind == "machine":
        words = f'<text x="{box.x:g}" y="{y + 21:g}">{_fit(box.label, box.w, 7)}</text>'
    elif box.detail:
        words = (
            f'<text x="{box.x:g}" y="{box.y - 3:g}">{_fit(box.label, box.w, 7)}</text>'
            f'<text class="d" x="{box.x:g}" y="{box.y + 12:g}">{_fit(box.detail, box.w, 5.6)}</text>'
        )
    else:
        words = f'<text x="{box.x:g}" y="{box.y + 4:g}">{_fit(box.label, box.w, 5.8)}</text>'
    whole = f"{box.place}: {box.label}" if box.place and box.place != box.label else box.label
    return f'<g class="{box.kind}"><title>{_text(f"{whole} {box.detail}".strip())}</title>{rect}{words}</g>'


def _fit(text: str, width: float, each: float) -> str:
    """A label that stays in its box; the title has it whole."""
    text, most = clean(text), max(3, int((width - 8) / each))
    return html.escape(text if len(text) <= most else text[: most - 1] + "…")


def _text(text: str) -> str:
    return html.escape(clean(text), quote=True)


def _summary(made: Layout) -> str:
    kinds = [box.kind for box in made.boxes]
    machines, pods = kinds.count("machine"), kinds.count("pod")
    hidden = [f"{box.label} {box.detail}" for box in made.boxes if box.kind == "badge" and not box.place]
    text = f"{machines} node{'s' if machines != 1 else ''} and {pods} pod{'s' if pods != 1 else ''} are drawn"
    return text + (f", {'; '.join(hidden)} are not" if hidden else "")


def _listed(made: Layout) -> str:
    """The drawing as a list: every machine with what is in it."""
    inside: dict[str, list[str]] = {}
    pods = {wire.b: wire.a for wire in made.wires if made.box[wire.a].kind == "pod"}
    for box in made.boxes:
        if box.kind in ("machine", "pod", "kernel") or (box.kind != "badge" and not box.place):
            continue
        behind = made.box[pods[box.id]] if box.id in pods else None
        extra = f", to pod {behind.id} ({behind.detail})" if behind is not None else ""
        inside.setdefault(box.place, []).append(f"{box.label} {box.detail}".strip() + extra)
    items = [
        f"<li>{_text(name or 'besides')}<ul>{''.join(f'<li>{_text(text)}</li>' for text in texts)}</ul></li>"
        for name, texts in inside.items()
    ]
    return f"<ul>{''.join(items)}</ul>"


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
