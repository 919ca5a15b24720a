"""Small plots for the Dagster UI, as Markdown with the picture inlined. Pages have their own figures.

The pictures are SVG, written here: every chunk draws two, and a plotting library takes a second a chunk for them.
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape

import polars as pl

WIDTH = 560
_BLUE, _DARK, _RED, _BAND = "#3b6ea5", "#333333", "#b5400b", "#7d9cc0"
Places = Sequence[tuple[float, float]]


def bars_markdown(frame: pl.DataFrame, name: str, value: str, marked: str) -> str:
    """Horizontal bars of ``value`` by ``name``, longest on top, on a scale from 0.

    Args:
        frame: one row per bar; rows without a value are left out.
        name: column of the labels.
        value: column of the lengths, at least 0.
        marked: column of booleans; bars where it is true are darker and marked, as the legend says.
    """
    rows = frame.drop_nulls(value).sort(value, descending=True)
    left, right, step = 140, WIDTH - 46, 22
    longest = max(rows[value].max() or 0.0, 1e-12)  # type: ignore[type-var]
    parts = []
    for place, (label, length, mark) in enumerate(rows.select(name, value, marked).iter_rows()):
        y, width = 6 + step * place, (right - left) * length / longest
        parts += [
            _text(left - 6, y + 13, f"{label} ▲" if mark else label, "end"),
            f'<rect x="{left}" y="{y}" width="{width:.1f}" height="17" fill="{_RED if mark else _BAND}"/>',
            _text(left + width + 4, y + 13, f"{length:.3f}"),
        ]
    foot = 6 + step * rows.height + 16
    told = "Jensen–Shannon distance to the reference (▲ the alarms say that it changed)"
    parts.append(_text((left + right) / 2, foot, told, "middle"))
    return _inlined(parts, foot + 8, "Distance of each feature to the reference")


def timeline_markdown(health: pl.DataFrame) -> str:
    """Estimated and realized ROC AUC by chunk, with the estimate's interval; failed chunks are marked below.

    Args:
        health: one row per chunk in order: ``label``, ``estimated_auc``, ``estimated_lower``, ``estimated_upper``,
            ``realized_auc`` (of the cohort that matured in the chunk) and ``failed_checks``; figures may be null.
    """
    top, bottom, left, right = 24, 176, 48, WIDTH - 12
    columns = ("estimated_auc", "estimated_lower", "estimated_upper", "realized_auc")
    series = {c: health[c].cast(pl.Float64).to_list() for c in columns}
    known = [v for values in series.values() for v in values if v is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    margin = 0.05 * (high - low) or 0.05
    low, high = low - margin, high + margin

    def x(at: int) -> float:
        return left + (right - left) * (at + 0.5) / max(health.height, 1)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    def places(column: str) -> list[list[tuple[float, float]]]:
        return _runs((x(i), None if v is None else y(v)) for i, v in enumerate(series[column]))

    bands = zip(places("estimated_upper"), places("estimated_lower"), strict=True)
    parts = [_axes(left, right, top, bottom, [(y(v), f"{v:.2f}") for v in _ticks(low, high)])]
    parts += [
        f'<polygon points="{_points([*u, *w[::-1]])}" fill="{_BAND}" opacity="0.35"/>' for u, w in bands
    ]
    for column, colour, dash in (("estimated_auc", _BLUE, ""), ("realized_auc", _DARK, "5 3")):
        parts += [_line(run, colour, dash) for run in places(column)]
    failed = [i for i, checks in enumerate(health["failed_checks"].to_list()) if checks]
    parts += [_text(x(i), bottom + 4, "▲", "middle", _RED) for i in failed]
    step = max(1, -(-health.height // 8))
    labels = health["label"].to_list()
    parts += [_text(x(i), bottom + 20, labels[i], "middle") for i in range(0, len(labels), step)]
    parts += [
        _text(left + 18, 13, "● estimated, without labels", colour=_BLUE),
        _text(left + 190, 13, "● realized, of the cohort just matured", colour=_DARK),
        _text(right, 13, "▲ a check failed", "end", _RED),
        _text(6, 13, "ROC AUC"),
    ]
    words = "ROC AUC by chunk: estimated with its interval, realized, and chunks with a failed check"
    return _inlined(parts, bottom + 28, words)


def _runs(places: Iterable[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """The places in unbroken runs: where a height is unknown, a line has a gap."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in places:
        if y is not None:
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round values between two."""
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (high - low) / s <= 6 or s == 0.5)
    first, last = int(low // step) + 1, int(high // step)
    return [i * step for i in range(first, last + 1)]


def _axes(left: float, right: float, top: float, bottom: float, ticks: Iterable[tuple[float, str]]) -> str:
    lines = "".join(
        f'<path d="M{left} {y:.1f}H{right}" stroke="#dddddd"/>{_text(left - 6, y + 4, told, "end")}'
        for y, told in ticks
    )
    return f'{lines}<path d="M{left} {top}V{bottom}H{right}" stroke="{_DARK}" fill="none"/>'


def _line(run: Places, colour: str, dash: str) -> str:
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>' for x, y in run)
    stroke = f'stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dash}" fill="none"'
    return f'<polyline points="{_points(run)}" {stroke}/>{dots}'


def _points(run: Places) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in run)


def _text(x: float, y: float, told: str, anchor: str = "start", colour: str = _DARK, size: int = 11) -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}"'
    return f"<text {where}>{escape(str(told))}</text>"


def _inlined(parts: Iterable[str], height: float, words: str) -> str:
    size = f'width="{WIDTH}" height="{height:g}" viewBox="0 0 {WIDTH} {height:g}"'
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>'
    )
    return f"![{words}](data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()})"
