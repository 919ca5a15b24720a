"""How a counting query divides its rows, by chunk and by segment; and values and names as SQL text."""

from collections.abc import Sequence

import duckdb
import polars as pl

from selfheal_assets.core.chunk_statistics import ALL
from selfheal_assets.core.evaluation import band_names
from selfheal_assets.core.profile import Profile
from selfheal_assets.core.spec import Segment


def number(value: float) -> str:
    """A DOUBLE literal: a plain decimal would be a DECIMAL, and a bare minus could start a comment."""
    text = repr(float(value))
    return f"({text if 'e' in text else text + 'e0'})"


def name(column: str) -> str:
    """A quoted identifier."""
    return '"' + column.replace('"', '""') + '"'


def text(value: str) -> str:
    """A quoted string."""
    return "'" + value.replace("'", "''") + "'"


def segment_value(feature: str, cuts: Sequence[float] | None) -> str:
    """A row's segment value as ``core.evaluation.segment_of`` has it."""
    if not cuts:
        return f"coalesce({name(feature)}::varchar, 'missing')"
    x = f"{name(feature)}::double"
    bands = band_names(cuts)
    below = " ".join(f"when {x} < {number(c)} then {text(b)}" for c, b in zip(cuts, bands, strict=False))
    return f"case when {x} is null or isnan({x}) then 'missing' {below} else {text(bands[-1])} end"


def segment_counts(connection: duckdb.DuckDBPyConnection, source: str, segment: Segment) -> dict[str, int]:
    """Rows by value of a segment."""
    value = segment_value(segment.feature, segment.cuts)
    return dict(connection.sql(f"select {value}, count(*) from {source} group by 1").fetchall())


class Slices:
    """How a query's rows are divided: by chunk, and by each way to cut the population, within one scan.

    Args:
        profile: whose segments.
        key: SQL expression whose value is a row's chunk; ``None`` takes all rows as one chunk.
    """

    def __init__(self, profile: Profile, key: str | None) -> None:
        self._segments = profile.segments
        self.is_keyed = key is not None
        codes = []
        for i, s in enumerate(profile.segments):
            cases = " ".join(f"when {text(v)} then {n}" for n, v in enumerate(s.values))
            value = segment_value(s.feature, s.cuts)
            pool = len(s.values)
            codes.append(
                (f"(case {value} {cases} else {pool} end)" if cases else f"{pool}") + f"::utinyint s{i}"
            )
        self.segment_type = pl.Enum(profile.segment_labels)
        self.names = ["k", *(f"s{i}" for i in range(len(profile.segments)))]
        self.select = ", ".join([f"{key if key is not None else 'null::integer'} k", *codes])

    @property
    def cuts(self) -> list[str | None]:
        """The columns by which the population is cut, one at a time; ``None`` where it is not cut."""
        return [*self.names[1:]] or [None]

    def group_by(self, *cells: str) -> str:
        """The clause: one grouping set per way to cut."""
        if not self._segments:
            return ", ".join(["k", *cells])
        sets = (", ".join(["k", f"s{i}", *cells]) for i in range(len(self._segments)))
        return f"grouping sets ({', '.join(f'({s})' for s in sets)})"

    @property
    def columns(self) -> str:
        """What a query that groups selects."""
        return ", ".join(self.names)

    def labelled(self, counted: pl.DataFrame, cells: list[str], sums: list[str]) -> pl.DataFrame:
        """Counted rows with ``segment``; those of ``all`` are the first cut's, added up.

        ``low`` and ``high`` are spanned, ``sums`` are added.
        """
        if not self._segments:
            everything = pl.Series("segment", [ALL], dtype=self.segment_type)
            return counted.hstack([everything.new_from_index(0, counted.height)])
        parts = []
        for i, s in enumerate(self._segments):
            codes = counted.filter(pl.col(f"s{i}").is_not_null())
            labels = pl.Series(s.labels, dtype=self.segment_type)
            parts.append(codes.with_columns(segment=labels.gather(codes[f"s{i}"])))
        spans = [e for c, e in (("low", pl.col("low").min()), ("high", pl.col("high").max())) if c in counted]
        whole = parts[0].group_by("k", *cells, maintain_order=True).agg(pl.col(sums).sum(), *spans)
        kept = [c for c in whole.columns if c in counted.columns]
        whole = whole.select(*kept, pl.lit(ALL, self.segment_type).alias("segment"))
        return pl.concat([whole, *(p.select(whole.columns) for p in parts)])
