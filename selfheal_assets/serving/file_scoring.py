"""Scoring a file: what ``selfheal score`` does, by the service's rules, code, log and ids.

A file may be larger than memory: it is read, checked, scored, logged and written batch by batch. Formats belong to
``stores.case_files``.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import polars as pl

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.schemas import InvalidRows, Problem, parse_cases, parse_times
from selfheal_assets.core.spec import Feature, FeatureType
from selfheal_assets.serving.answers import UNSEEN
from selfheal_assets.serving.schemas import FLOAT32_MAX, TEXT_LENGTH
from selfheal_assets.serving.scoring import ScoringService
from selfheal_assets.stores.case_files import ROW, CaseFile, RawBatch
from selfheal_assets.stores.prediction_log import with_ids
from selfheal_assets.stores.result_files import STDOUT, DeadLetters, ResultFile
from selfheal_assets.stores.sources import SourceError
from selfheal_assets.use_case import UseCase

RESULT = {
    "row": pl.Int64,
    "prediction_id": pl.String,
    "entity_id": pl.String,
    "probability": pl.Float64,
    "prediction": pl.Int8,
    "threshold": pl.Float64,
    "model_version": pl.Int64,
    "warnings": pl.String,
}
WARNINGS = "#warnings"  # like ROW no feature's name
Progress = Callable[[str, int, int], None]
OnError = Literal["reject", "skip"]


@dataclass(frozen=True)
class FileScored:
    """What became of a file's rows; ``rejected_file`` is ``None`` where none was rejected."""

    rows: int
    scored: int
    rejected: int
    with_warnings: int
    model_version: int
    output: str
    rejected_file: str | None


def default_output(path: Path) -> Path:
    """Where a file's results are written unless somebody says otherwise: ``cases.csv`` to ``cases.scored.csv``."""
    return path.with_name(f"{path.stem}.scored{path.suffix}")


def score_file(
    path: Path,
    output: Path,
    scoring: ScoringService,
    case: UseCase,
    now: Callable[[], datetime],
    on_error: OnError = "reject",
    progress: Progress = lambda stage, done, size: None,
) -> FileScored:
    """Score each row of a file with the champion, and log it before it is written.

    Args:
        path: a .csv or .parquet file of cases, see :class:`~selfheal_assets.stores.case_files.CaseFile`.
        output: gets the columns :data:`RESULT`, in the file's order; ``-`` is standard output. Rejected rows go to
            a file beside it, ``.rejected.jsonl``.
        scoring: has a champion, which scores the whole file.
        case: says what a row must hold to.
        now: the time of an answer, naive UTC.
        on_error: what a bad row means: ``reject`` scores nothing of a file that has one, and so reads it through
            before anything is scored; ``skip`` sets the row aside.
        progress: is told the stage (``checking`` or ``scoring``), and how much of how much is read.

    Raises:
        SourceError: the file cannot be read, or has bad rows that must not be skipped; nothing was scored.
        NoChampion: there is no model to score with.
        LogNotDurable: the log could not be written. Rows before are logged; no output was written.
    """
    if output.resolve() == path.resolve():
        raise SourceError(f"{path}: the results would replace the cases: give another --output")
    judge = _Judge(case, scoring.champion.bundle)
    file, result = CaseFile(path, case), ResultFile(output, RESULT)
    letters = DeadLetters(Path(f"{path if output == STDOUT else output}.rejected.jsonl"))
    try:
        if on_error == "reject":
            _check(file, judge, letters, progress)
        return _score(file, result, judge, letters, scoring, now, on_error, progress)
    except OSError as error:
        raise SourceError(f"{error.filename or output}: {error.strerror or error}") from error


def _check(file: CaseFile, judge: "_Judge", letters: DeadLetters, progress: Progress) -> None:
    rows, first = 0, ""
    with letters:
        for batch in file.batches():
            judged = judge(batch)
            judged.set_aside(letters)
            rows += judged.rows
            first = first or judged.first_problem
            progress("checking", batch.done, file.size)
    if letters.count:
        raise SourceError(
            f"{file.path}: {letters.count:,} of {rows:,} rows are bad, and nothing was scored. The first: {first}. "
            f"All are in {letters.path}: mend them, or leave them out with --on-error skip"
        )


def _score(
    file: CaseFile,
    result: ResultFile,
    judge: "_Judge",
    letters: DeadLetters,
    scoring: ScoringService,
    now: Callable[[], datetime],
    on_error: OnError,
    progress: Progress,
) -> FileScored:
    rows = scored_rows = warned = 0
    with letters, result:
        for batch in file.batches():
            judged = judge(batch)
            if judged.problems and on_error == "reject":
                raise SourceError(
                    f"{file.path} has changed while it was scored: leave it alone, and run again"
                )
            judged.set_aside(letters)
            moment = now()
            cases = judged.good.with_columns(pl.col("event_time").fill_null(moment))
            scored = scoring.score(cases, moment)
            answers = cases.select("entity_id", row=ROW, warnings=WARNINGS).with_columns(
                prediction_id=pl.Series(scored.prediction_ids, dtype=pl.String),
                probability=scored.probability,
                prediction=scored.prediction,
                threshold=pl.lit(scored.threshold),
                model_version=pl.lit(scored.version),
            )
            result.write(answers.select(pl.col(name).cast(kind) for name, kind in RESULT.items()))
            rows, scored_rows = rows + judged.rows, scored_rows + cases.height
            warned += int((cases[WARNINGS] != "").sum())
            progress("scoring", batch.done, file.size)
    rejected_file = str(letters.path) if letters.count else None
    version = scoring.champion.version
    return FileScored(rows, scored_rows, letters.count, warned, version, str(result.path), rejected_file)


@dataclass(frozen=True)
class _Judged:
    """A batch after the rules: ``good`` has number, id, time, features and warnings."""

    good: pl.DataFrame
    problems: dict[int, list[str]]
    raw: pl.DataFrame

    @property
    def rows(self) -> int:
        return self.good.height + len(self.problems)

    @property
    def first_problem(self) -> str:
        if not self.problems:
            return ""
        row = min(self.problems)
        return f"row {row}, {self.problems[row][0]}"

    def set_aside(self, letters: DeadLetters) -> None:
        given = self.raw.filter(pl.col(ROW).is_in(list(self.problems)))
        values = {values.pop(ROW): values for values in given.to_dicts()}
        for row in sorted(self.problems):
            letters.add(row, self.problems[row], values.get(row, {}))


class _Judge:
    """The service's rules for a case, for many rows at a time.

    Args:
        case: the features' types, bounds and allowed values; what an unseen category means.
        bundle: knows which categories it has seen.
    """

    def __init__(self, case: UseCase, bundle: Bundle) -> None:
        self._features = case.features
        self._refuses_unseen = case.serving.unseen_category == "refuse"
        self._vocabulary = {n: v for n, v in bundle.vocabulary.items() if n in case.feature_names}

    def __call__(self, batch: RawBatch) -> _Judged:
        """Rows that may be scored, and the reasons why others may not."""
        problems: dict[int, list[str]] = defaultdict(list)
        for broken in batch.broken:
            problems[broken.row].append(broken.reason)
        left = batch.frame
        for rule in (self._read, self._within_limits, self._seen):
            left = self._without_bad(left, rule, problems)
        return _Judged(left, dict(problems), batch.frame)

    def _without_bad(
        self,
        rows: pl.DataFrame,
        rule: Callable[[pl.DataFrame], pl.DataFrame],
        problems: dict[int, list[str]],
    ) -> pl.DataFrame:
        """What a rule makes of the rows that it does not refuse; each turn of the loop takes some out."""
        while True:
            try:
                return rule(rows)
            except InvalidRows as error:
                if whole := [p for p in error.problems if p.row is None]:
                    raise SourceError(f"the file cannot be scored: {whole[0]}") from error
                bad: set[int] = set()
                for problem in error.problems:
                    if problem.row is not None:
                        bad.add(problem.row)
                        problems[rows[ROW][problem.row]].append(f"column '{problem.column}': {problem.text}")
                rows = rows.filter(~pl.int_range(pl.len()).is_in(sorted(bad)))

    def _read(self, raw: pl.DataFrame) -> pl.DataFrame:
        """Types, bounds, allowed values; a case without id gets one, as in the service."""
        times, problems = _times(raw)
        if problems:
            raise InvalidRows("", problems)
        keys = {ROW: raw[ROW], "entity_id": _ids(raw), "event_time": times}
        features = parse_cases(raw, self._features, "", first_row=0)
        return pl.DataFrame(keys).hstack(features)

    def _within_limits(self, rows: pl.DataFrame) -> pl.DataFrame:
        """What the booster and the log can hold."""
        problems = [p for f in self._features for p in _too_large(rows, f)]
        texts = ["entity_id", *(f.name for f in self._features if f.type is FeatureType.category)]
        for name in texts:
            long = (rows[name].str.len_chars() > TEXT_LENGTH).fill_null(False)
            problems += [
                Problem(name, i, f"is longer than {TEXT_LENGTH} characters") for i in long.arg_true()
            ]
        if problems:
            raise InvalidRows("", problems)
        return rows

    def _seen(self, rows: pl.DataFrame) -> pl.DataFrame:
        """With a warning where a category was never seen in training, unless that is refused."""
        unseen = {
            name: rows[name].is_not_null() & ~rows[name].is_in(known)
            for name, known in self._vocabulary.items()
        }
        if self._refuses_unseen:
            problems = [
                Problem(name, i, f"'{rows[name][i]}' was not seen in training")
                for name, new in unseen.items()
                for i in new.arg_true()
            ]
            if problems:
                raise InvalidRows("", problems)
        told = [
            pl.when(new).then(pl.format(UNSEEN, pl.lit(name), pl.col(name))) for name, new in unseen.items()
        ]
        warnings = pl.concat_str(told, separator="; ", ignore_nulls=True) if told else pl.lit("")
        return rows.with_columns(warnings.alias(WARNINGS))


def _ids(raw: pl.DataFrame) -> pl.Series:
    """Each row's id, a new one where none was given."""
    given = raw["entity_id"] if "entity_id" in raw else pl.repeat(None, raw.height, eager=True)
    ids = given.cast(pl.String).str.strip_chars().replace("", None)
    return pl.Series("entity_id", with_ids(ids.to_list()), dtype=pl.String)


def _times(raw: pl.DataFrame) -> tuple[pl.Series, Sequence[Problem]]:
    if "event_time" not in raw:
        return pl.Series([None] * raw.height, dtype=pl.Datetime("us")), []
    return parse_times(raw["event_time"], first_row=0)


def _too_large(rows: pl.DataFrame, feature: Feature) -> list[Problem]:
    if feature.type is not FeatureType.number:
        return []
    large = (rows[feature.name].abs() > FLOAT32_MAX).fill_null(False)
    return [Problem(feature.name, i, f"is beyond ±{FLOAT32_MAX:g}") for i in large.arg_true()]
