"""What a table may hold: columns with their types and ranges, and the rules between them, checked by Pandera.

The kinds of rules belong here; which table has which is in ``tables``. A rule is a Polars expression that holds in
each sound row, with the words for a row in which it does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import polars as pl

from selfheal_assets.core.schemas import SHOWN, Problem

if TYPE_CHECKING:
    import pandera.polars as pa


class InvalidTable(ValueError):
    """A table that breaks its own schema: a fault of the code that made it. Names column, row and rule."""

    def __init__(self, table: str, problems: list[Problem]):
        self.problems = tuple(problems)
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        lines = [
            f"table '{table}' breaks its schema (selfheal_assets/core/tables.py): {count}; nothing was saved"
        ]
        lines += [f"  {problem}" for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"  … and {len(problems) - SHOWN} more")
        super().__init__("\n".join(lines))


@dataclass(frozen=True)
class Rule:
    """What must hold in each row: ``holds`` is a boolean expression, null where it does not apply."""

    column: str
    says: str
    holds: pl.Expr


@dataclass(frozen=True)
class Column:
    """One column: its type, whether it may be null, and its range. Floats are always finite."""

    dtype: type[pl.DataType] | pl.DataType
    nullable: bool = False
    least: float | None = None
    most: float | None = None
    among: tuple[str, ...] | None = None

    def rules(self, name: str) -> list[Rule]:
        """The column's own rules."""
        value, rules = pl.col(name), []
        if not self.nullable:
            rules.append(Rule(name, "is null, but must have a value", value.is_not_null()))
        if self.dtype == pl.Float64:
            rules.append(Rule(name, "must be a finite number, or null with a reason", value.is_finite()))
        if self.least is not None:
            rules.append(Rule(name, f"must be at least {self.least:g}", value >= self.least))
        if self.most is not None:
            rules.append(Rule(name, f"must be at most {self.most:g}", value <= self.most))
        if self.among is not None:
            rules.append(Rule(name, f"must be one of {', '.join(self.among)}", value.is_in(self.among)))
        return rules


def text(*among: str, nullable: bool = False) -> Column:
    """A text; one of ``among``, if any are given."""
    return Column(pl.String, nullable, among=among or None)


def figure(least: float | None = None, most: float | None = None, nullable: bool = True) -> Column:
    """A finite float; null where it could not be computed."""
    return Column(pl.Float64, nullable, least, most)


def share(nullable: bool = True) -> Column:
    """A finite float in 0..1; null where it could not be computed."""
    return figure(0, 1, nullable)


def count(nullable: bool = False) -> Column:
    """A whole number from 0 on."""
    return Column(pl.Int64, nullable, least=0)


def flag(nullable: bool = False) -> Column:
    """True or false."""
    return Column(pl.Boolean, nullable)


def moment(nullable: bool = False) -> Column:
    """A time, naive UTC."""
    return Column(pl.Datetime("us"), nullable)


def explained(value: str, by: str = "reason", exactly: bool = True) -> tuple[Rule, ...]:
    """Where ``value`` is null, ``by`` says why; with ``exactly``, it is null elsewhere."""
    missing, said = pl.col(value).is_null(), pl.col(by).is_not_null() & (pl.col(by) != "")
    rules = [Rule(value, f"is null without a {by}", ~missing | said)]
    if exactly:
        rules.append(Rule(by, f"is given although {value} has a value", missing | pl.col(by).is_null()))
    return tuple(rules)


def ordered(*names: str) -> tuple[Rule, ...]:
    """The columns ascend from left to right, where they have values."""
    return tuple(Rule(a, f"must be at most {b}", pl.col(a) <= pl.col(b)) for a, b in pairwise(names))


@dataclass(frozen=True)
class Table:
    """A table: its columns in any order and no others, rules between them, and the ``key`` that no two rows share."""

    columns: Mapping[str, Column]
    key: tuple[str, ...]
    rules: tuple[Rule, ...] = field(default=())

    @cached_property
    def every_rule(self) -> tuple[Rule, ...]:
        """The columns' rules, those between columns, and the key's."""
        own = [rule for name, column in self.columns.items() for rule in column.rules(name)]
        once = Rule(", ".join(self.key), "is there more than once", ~pl.struct(self.key).is_duplicated())
        return (*own, *self.rules, once)

    @cached_property
    def schema(self) -> "pa.DataFrameSchema":
        """The Pandera schema.

        All rules are one check: Pandera's price is a millisecond or two for each check of each column, and a chunk
        has ten tables.
        """
        # Pandera's import takes a second: what loads this module without validating should not pay for it.
        import pandera.polars as pa

        holds = pl.all_horizontal(rule.holds.fill_null(True) for rule in self.every_rule)
        return pa.DataFrameSchema(
            {name: pa.Column(column.dtype, nullable=True) for name, column in self.columns.items()},
            checks=pa.Check(lambda data: data.lazyframe.select(holds)),
            strict=True,
        )

    def problems(self, frame: pl.DataFrame) -> list[Problem]:
        """Everything that is wrong with a frame, as the schema refused it; rows count from 1."""
        missing = [Problem(c, None, "is missing") for c in self.columns if c not in frame.columns]
        extra = [Problem(c, None, "is not declared") for c in frame.columns if c not in self.columns]
        types = [
            Problem(n, None, f"holds {frame.schema[n]} values, must hold {c.dtype}")
            for n, c in self.columns.items()
            if n in frame.columns and frame.schema[n] != c.dtype
        ]
        if missing or extra or types:
            return [*missing, *extra, *types]
        found: dict[tuple[int, str], Rule] = {}  # the first broken rule of a cell says it best
        for rule in self.every_rule:
            for row in frame.select(~rule.holds.fill_null(True)).to_series().arg_true():
                found.setdefault((row, rule.column), rule)
        in_order = sorted(found.items(), key=lambda cell: cell[0][0])
        return [self._told(frame, row, rule) for (row, _), rule in in_order]

    def _told(self, frame: pl.DataFrame, row: int, rule: Rule) -> Problem:
        cells = frame.row(row, named=True)
        where = ", ".join(f"{k}={cells[k]}" for k in self.key)
        value = f"{cells[rule.column]!r} " if rule.column in cells and cells[rule.column] is not None else ""
        return Problem(rule.column, row + 1, f"{value}{rule.says} ({where})")
