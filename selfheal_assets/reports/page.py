"""A report page as data, and the one template that draws it.

What a page may hold (figures, tables, tiles, terms, entries, notices) belongs here; what a particular report
says does not. All text is escaped; no page loads anything from a network.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

Tone = Literal["good", "bad", "unknown", "neutral"]
PLOTLY_JS = "plotly.min.js"


@dataclass(frozen=True)
class Badge:
    """A status: a symbol and a word beside the colour; a click opens its details, or leads to its target."""

    symbol: str
    word: str
    tone: Tone
    details: str = ""
    target: str = ""


@dataclass(frozen=True)
class Link:
    """A way to a place in this page (``#decision-3``) or to a file beside it (``model_3.html``)."""

    text: str
    target: str


Cell = str | Badge | Link


@dataclass(frozen=True)
class Figure:
    """A plotly figure (``data`` and ``layout`` as plain data) with what must be said beside it.

    ``alt`` says in words what the plot shows, for those who cannot see it. ``half``: two fit in a row.
    """

    kind: ClassVar[str] = "figure"
    title: str
    caption: str
    alt: str
    spec: Mapping[str, Any]
    half: bool = False


@dataclass(frozen=True)
class Column:
    """A table's column: its heading, and whether it holds numbers (set flush right)."""

    title: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its heading."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False


@dataclass(frozen=True)
class Notice:
    """A paragraph that stands in for something, for instance why a figure is missing."""

    kind: ClassVar[str] = "notice"
    text: str


@dataclass(frozen=True)
class Points:
    """Sentences, one a point."""

    kind: ClassVar[str] = "points"
    points: Sequence[str]


@dataclass(frozen=True)
class Terms:
    """Words and what they mean."""

    kind: ClassVar[str] = "terms"
    meanings: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """One thing that happened: a line that opens to its reasons, and to the evidence behind them."""

    anchor: str
    badge: Badge
    headline: str
    reasons: Sequence[str]
    tables: Sequence[Table] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    links: Sequence[Link] = ()


@dataclass(frozen=True)
class Entries:
    """A list of what happened, in order."""

    kind: ClassVar[str] = "entries"
    entries: Sequence[Entry]


Block = Figure | Table | Notice | Points | Terms | Entries


@dataclass(frozen=True)
class Section:
    """A part of a page under its own heading."""

    anchor: str
    title: str
    blocks: Sequence[Block]
    lead: str = ""


@dataclass(frozen=True)
class Tile:
    """A key figure: what it is, its value, what to compare it with."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report. The verdict is the sentence to read if one reads only one; ``related`` are pages beside it."""

    title: str
    subtitle: str
    verdict: str
    tone: Tone
    sections: Sequence[Section]
    tiles: Sequence[Tile] = field(default_factory=tuple)
    notes: Sequence[str] = field(default_factory=tuple)
    related: Sequence[Link] = ()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("selfheal_assets.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script_json"] = _script_json
    return environment


def _script_json(value: Any) -> Markup:
    """JSON that cannot end the ``<script>`` it stands in, whatever text the data holds."""
    return Markup(orjson.dumps(value).decode().replace("<", "\\u003c").replace("&", "\\u0026"))


def plotly_source() -> bytes:
    """plotly.js as the installed plotly package ships it."""
    return (files("plotly") / "package_data" / PLOTLY_JS).read_bytes()


def render(page: Page, shared_plotly: str | None = None) -> str:
    """Draw a page as HTML.

    Args:
        page: what it says.
        shared_plotly: name of a plotly.js file beside the page (see ``write_shared_plotly``), for pages that
            are written often: about 100 kB each. Without it plotly.js is part of the page: 4.6 MB, one file.
    """
    drawn = any(isinstance(block, Figure) for section in page.sections for block in section.blocks)
    inline = Markup(plotly_source().decode()) if drawn and shared_plotly is None else None
    template = _environment().get_template("page.html")
    return template.render(page=page, drawn=drawn, inline_plotly=inline, shared_plotly=shared_plotly)


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write beside and rename: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    return unfinished.replace(path)


def write_shared_plotly(folder: Path) -> Path:
    """Put plotly.js into the reports' folder, once: it is rewritten only if the installed one differs."""
    target = folder / PLOTLY_JS
    installed = Path(str(files("plotly") / "package_data" / PLOTLY_JS))
    if target.is_file() and target.stat().st_size == installed.stat().st_size:
        return target
    return write_atomically(target, installed.read_bytes())
