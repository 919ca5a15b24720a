"""Credit conventions: score bands, ranking by cohort, vintages, swap sets, adverse impact.

The dbt marts count; here the counts become rates with intervals. Each function takes a mart's rows and returns the
same rows with more columns: a figure that cannot be computed is null, and ``reason`` says what is missing. PSI and
CSI are in ``core.stability``.
"""

import numpy as np
import polars as pl
from scipy.stats import beta, norm

from selfheal_assets.core.evaluation import Approval, ScoredRows, impact_ratio
from selfheal_assets.core.policies import CreditPolicy

Array = np.ndarray
SWAPS = {
    (True, True): "approved by both",
    (False, True): "swapped in: only the challenger approves",
    (True, False): "swapped out: only the champion approves",
    (False, False): "refused by both",
}


def jeffreys_interval(positives: Array, rows: Array, confidence: float) -> tuple[Array, Array]:
    """Equal-tailed interval of a share, by Jeffreys' prior: quantiles of Beta(k + ½, n − k + ½).

    Args:
        positives: k, shape (m,).
        rows: n, at least k; where n is 0 the interval is NaN.
        confidence: for instance 0.95.

    Returns:
        Lower and upper bounds, shape (m,). The lower is 0 where k = 0, the upper 1 where k = n: the interval
        could not hold these shares otherwise.

    Source: Brown, Cai and DasGupta, Interval Estimation for a Binomial Proportion, Statistical Science 16(2), 2001.
    """
    k, n = np.asarray(positives, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    tail = (1 - confidence) / 2
    lower = np.where(k == 0, 0.0, beta.ppf(tail, k + 0.5, n - k + 0.5))
    upper = np.where(k == n, 1.0, beta.ppf(1 - tail, k + 0.5, n - k + 0.5))
    empty = n == 0
    return np.where(empty, np.nan, lower), np.where(empty, np.nan, upper)


def _with_rate(counts: pl.DataFrame, positives: str, rows: str, confidence: float, why: str) -> pl.DataFrame:
    """Adds ``rate``, ``lower``, ``upper`` and ``reason``: ``why`` where there is no row."""
    k, n = counts[positives].cast(pl.Float64).to_numpy(), counts[rows].cast(pl.Float64).to_numpy()
    lower, upper = jeffreys_interval(k, n, confidence)
    known = pl.col(rows) > 0
    return counts.with_columns(
        rate=pl.when(known).then(pl.col(positives) / pl.col(rows)),
        lower=pl.Series(lower).fill_nan(None),
        upper=pl.Series(upper).fill_nan(None),
        reason=pl.when(~known).then(pl.lit(why)),
    )


def score_bands(counts: pl.DataFrame, policy: CreditPolicy) -> pl.DataFrame:
    """Expected and observed rates by score band, pooled over cohorts and versions.

    Args:
        counts: rows of ``fct_score_bands``: ``band`` (int, 1 the lowest scores; 0 without a band), ``rows``,
            ``flagged``, ``matured`` (mature and labelled), ``expected_positives`` (f64: sum of the probabilities of
            the matured), ``positives`` (of the matured).
        policy: the confidence.

    Returns:
        One row per band, ascending: these columns summed, ``expected_rate`` and ``rate`` (observed; both of the
        matured), ``lower``, ``upper`` (Jeffreys interval of the observed rate), ``agrees`` (the expected rate lies in
        it; null where unknown), ``reason``.
    """
    numbers = ["rows", "flagged", "matured", "expected_positives", "positives"]
    pooled = counts.group_by("band").agg(pl.col(numbers).sum()).sort("band")
    rated = _with_rate(pooled, "positives", "matured", policy.confidence, "no matured label in this band yet")
    expected = pl.when(pl.col("matured") > 0).then(pl.col("expected_positives") / pl.col("matured"))
    return rated.with_columns(expected_rate=expected).with_columns(
        agrees=pl.col("expected_rate").is_between("lower", "upper")
    )


def ranking(found: pl.DataFrame, policy: CreditPolicy) -> pl.DataFrame:
    """KS and Gini by cohort and version, with the Gini's interval.

    Args:
        found: rows of ``fct_ranking``: ``positives``, ``negatives`` (matured), ``ks``, ``gini``, ``gini_error``
            (f64: DeLong's standard error; null where it cannot be computed).
        policy: the confidence.

    Returns:
        The same rows with ``lower``, ``upper`` (of the Gini, within −1..1) and ``reason``.

    Source: Gini = 2 AUC − 1; DeLong, DeLong and Clarke-Pearson, Biometrics 44(3), 1988.
    """
    half = pl.col("gini_error") * float(norm.ppf(0.5 + policy.confidence / 2))
    counted = pl.format("{} positives and {} negatives", "positives", "negatives")
    return found.with_columns(
        lower=(pl.col("gini") - half).clip(-1.0, 1.0),
        upper=(pl.col("gini") + half).clip(-1.0, 1.0),
        reason=pl.when(pl.col("gini").is_null())
        .then(pl.format("{} matured: a ranking needs one of each", counted))
        .when(pl.col("gini_error").is_null())
        .then(pl.format("{} matured: an interval needs two of each", counted)),
    )


def vintages(counts: pl.DataFrame, policy: CreditPolicy) -> pl.DataFrame:
    """Cumulative share of positives by months on book.

    Args:
        counts: rows of ``fct_vintage_curves``: ``cohort``, ``months_on_book``, ``rows``, ``positives`` (so far).
        policy: the confidence.

    Returns:
        The same rows with ``rate``, ``lower``, ``upper`` (Jeffreys), ``reason``.
    """
    return _with_rate(counts, "positives", "rows", policy.confidence, "the cohort holds no case")


def swap_counts(rows: ScoredRows) -> pl.DataFrame:
    """How champion and challenger would decide on the same labelled rows: counts as ``fct_swap_set`` has them."""
    frame = pl.DataFrame(
        {
            "champion_approves": ~rows.champion_flagged,
            "challenger_approves": ~rows.challenger_flagged,
            "label": rows.label,
        }
    )
    cells = frame.group_by("champion_approves", "challenger_approves")
    return cells.agg(rows=pl.len(), matured=pl.len(), positives=pl.col("label").cast(pl.Int64).sum())


def swap_set(counts: pl.DataFrame, policy: CreditPolicy) -> pl.DataFrame:
    """Who would be approved by one model and refused by the other, and how they turned out.

    Args:
        counts: rows of ``fct_swap_set``, or of :func:`swap_counts`: ``champion_approves``, ``challenger_approves``
            (bool), ``rows``, ``matured``, ``positives``.
        policy: the confidence.

    Returns:
        Four rows: ``group`` (in words), both flags, ``rows``, ``share`` (of all rows), ``matured``, ``positives``,
        ``rate`` (of positives among the matured), ``lower``, ``upper`` (Jeffreys), ``reason``. A challenger is better
        where the swapped in turn out better than the swapped out.
    """
    flags = ["champion_approves", "challenger_approves"]
    every = pl.DataFrame(
        [(group, *key) for key, group in SWAPS.items()], schema=["group", *flags], orient="row"
    )
    numbers = ["rows", "matured", "positives"]
    pooled = counts.group_by(flags).agg(pl.col(numbers).sum().cast(pl.Int64))
    whole = every.join(pooled, on=flags, how="left", maintain_order="left").with_columns(
        pl.col(numbers).fill_null(0)
    )
    rated = _with_rate(whole, "positives", "matured", policy.confidence, "no matured label among these cases")
    total = int(whole["rows"].sum())
    share = pl.col("rows") / total if total else pl.lit(None, dtype=pl.Float64)
    return rated.with_columns(share=share)


def adverse_impact(counts: pl.DataFrame, policy: CreditPolicy) -> pl.DataFrame:
    """Approval rate of each group over that of the most approved group of its segment.

    Args:
        counts: rows of ``fct_group_approvals``: ``segment``, ``group_name`` (str), ``fairness`` (bool), ``rows``,
            ``approved``; several rows of a group are added.
        policy: confidence, the least rows of a group, and the least ratio.

    Returns:
        One row per segment and group, the least approved first: these columns, ``rate``, ``ratio`` (adverse impact
        ratio), ``lower``, ``upper`` (of the ratio), ``compared_with`` (the most approved group), ``flagged`` (ratio
        below the policy's), ``reason`` (why there is no ratio). The most approved group is compared with itself: 1,
        without an interval.

    Sources: 29 CFR 1607.4(D) (four-fifths rule); the interval is that of a ratio of two shares on the log scale
    (Katz, Baptista, Azen and Pike, Biometrics 34(3), 1978).
    """
    summed = counts.group_by("segment", "group_name", "fairness").agg(pl.col("rows", "approved").sum())
    rated = summed.with_columns(rate=pl.col("approved") / pl.col("rows")).sort(
        "segment", "rate", "group_name"
    )
    parts = [_impact_of_segment(part, policy) for part in rated.partition_by("segment", maintain_order=True)]
    schema = {
        "ratio": pl.Float64,
        "lower": pl.Float64,
        "upper": pl.Float64,
        "compared_with": pl.String,
        "flagged": pl.Boolean,
        "reason": pl.String,
    }
    added = pl.DataFrame([row for part in parts for row in part], schema=schema, orient="row")
    return pl.concat([rated, added], how="horizontal")


def _impact_of_segment(groups: pl.DataFrame, policy: CreditPolicy) -> list[tuple]:
    large = groups.filter(pl.col("rows") >= policy.min_group_rows)
    best = large.row(-1, named=True) if large.height else None
    return [_impact(group, best, large.height, policy) for group in groups.iter_rows(named=True)]


def _impact(group: dict, best: dict | None, large: int, policy: CreditPolicy) -> tuple:
    unknown = (None, None, None, None, None)
    if group["rows"] < policy.min_group_rows:
        return *unknown, f"{group['rows']} rows; a group needs {policy.min_group_rows} to be compared"
    if best is None or large < 2:
        return *unknown, f"no second group of {policy.min_group_rows} rows to compare with"
    if best["approved"] == 0:
        return *unknown, "nobody is approved in any group"
    if group["group_name"] == best["group_name"]:
        return 1.0, None, None, best["group_name"], False, None
    ratio = impact_ratio(*(Approval(g["rate"], g["rows"]) for g in (group, best)))
    flagged = ratio < policy.min_adverse_impact_ratio
    if group["approved"] == 0:
        return 0.0, None, None, best["group_name"], flagged, "none approved: the ratio has no interval"
    error = np.sqrt(sum((1 - g["rate"]) / g["approved"] for g in (group, best)))
    reach = float(np.exp(norm.ppf(0.5 + policy.confidence / 2) * error))
    return ratio, ratio / reach, ratio * reach, best["group_name"], flagged, None
