"""What a backtest found: several policies over one history, in tidy frames that reports, tests and JSON read.

Only the result and its shapes belong here; how a policy is lived through is ``selfheal_assets.backtest``'s.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

NEVER, ON_DRIFT, SELFHEAL, ORACLE = "never", "on drift", "selfheal", "oracle"

_TIME = pl.Datetime("us")

CHUNKS: dict[str, Any] = {
    "policy": pl.String,
    "chunk": _TIME,
    "rows": pl.Int64,
    "positives": pl.Int64,
    "auc": pl.Float64,
    "f1": pl.Float64,
    "brier": pl.Float64,
    "expected_over_observed": pl.Float64,
    "champion": pl.Int64,
}
ACTIONS: dict[str, Any] = {
    "policy": pl.String,
    "as_of": _TIME,
    "action": pl.String,
    "champion": pl.Int64,
    "challenger": pl.Int64,
    "reason": pl.String,
    "regretted": pl.Boolean,
    "regret": pl.Float64,
    "regret_lower": pl.Float64,
    "regret_upper": pl.Float64,
}
MODELS: dict[str, Any] = {
    "policy": pl.String,
    "model": pl.Int64,
    "candidate": pl.String,
    "trained_from": _TIME,
    "trained_until": _TIME,
    "as_of": _TIME,
    "fingerprint": pl.String,
}
ALARMS: dict[str, Any] = {
    "policy": pl.String,
    "chunk": _TIME,
    "check": pl.String,
    "false_alarm": pl.Boolean,
    "reason": pl.String,
}
EVENTS: dict[str, Any] = {"event": pl.String, "starts": _TIME, "ends": _TIME, "touches": pl.String}
SUMMARY: dict[str, Any] = {
    "policy": pl.String,
    "looked_at_after": pl.Int64,
    "rows": pl.Int64,
    "positives": pl.Int64,
    "auc": pl.Float64,
    "auc_within": pl.Float64,
    "f1": pl.Float64,
    "brier": pl.Float64,
    "expected_over_observed": pl.Float64,
    "calibration_error": pl.Float64,
    "retrainings": pl.Int64,
    "promotions": pl.Int64,
    "refusals": pl.Int64,
    "rollbacks": pl.Int64,
    "regretted_promotions": pl.Int64,
    "proved_regrets": pl.Int64,
    "alarms": pl.Int64,
    "false_alarms": pl.Int64,
    "events": pl.Int64,
    "detected": pl.Int64,
    "detection_delay_days": pl.Float64,
    "cost": pl.Float64,
    "regret_log_loss": pl.Float64,
    "regret_brier": pl.Float64,
}
DIFFERENCES: dict[str, Any] = {
    "policy": pl.String,
    "against": pl.String,
    "metric": pl.String,
    "difference": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
}


@dataclass(frozen=True)
class Backtest:
    """Several policies over one history, on the labels that were known in the end.

    Attributes:
        use_case: its name.
        title: its title, for people.
        period: of a chunk: ``day``, ``week``, ``month`` or ``quarter``.
        from_time: start of the first chunk.
        until: end of the last chunk.
        compared_from: start of the rows that ``summary`` and ``differences`` are of.
        compared_until: their end.
        seed: of the bootstrap.
        confidence: of the two-sided intervals in ``differences``.
        currency: of ``cost``; empty where the policy gives no costs.
        policies: names in the order in which they are shown.
        chunks: one row for each policy and chunk, over the cases whose label is known in the end:

            - ``rows``, ``positives``: labelled cases and those with a positive label;
            - ``auc``, ``f1`` (at the thresholds of the models that served), ``brier``: null where a chunk's labels
              do not define it;
            - ``expected_over_observed``: sum of the served probabilities over the positives; null without positives;
            - ``champion``: the number of the model that served (see ``models``).
        actions: one row for each decision, in time's order within a policy:

            - ``as_of``: the day; ``action``: ``RETRAIN`` (a model is trained), ``PROMOTE``, ``REJECT``,
              ``INCONCLUSIVE``, ``ROLL_BACK``, ``SUPPRESS`` (cooldown, budget, hysteresis), ``HOLD``, ``FIX_DATA``
              (the data are broken, or the training set is unsound: nothing is trained);
            - ``champion``: the model in place before; ``challenger``: the other one; null where there is none;
            - ``reason``: in words;
            - ``regretted``: of a promotion that replaced a model: whether the promoted one was worse, on the labels
              that came later, over the cases it served, than the one it replaced would have been; null of any
              other action, and where no label came;
            - ``regret``: by how much: mean log loss (nats a case) of the promoted less that of the replaced, with
              ``regret_lower`` and ``regret_upper``, the ends of a paired 95 % interval.
        models: one row for each model that a policy trained; ``model`` is its number within the policy, 1 the first
            champion; ``candidate`` the family's member; ``as_of`` when it was trained.
        alarms: one row for each failed check that may start a retraining: ``false_alarm`` is null where no events
            are known.
        events: the known changes of the history, if any; ``touches``: the ``inputs``, the ``outcomes`` (how inputs
            turn into labels), the ``labels`` or the ``record`` of cases.
        summary: one row for each policy over the compared period:

            - ``looked_at_after``: chunks after which a person has looked at what holds a training set; null: never;
            - the metrics of ``chunks`` over all rows; ``auc_within``: AUC within chunks, averaged over positives;
            - ``calibration_error``: mean over chunks, weighted by rows, of |expected − observed| as a share of rows;
            - ``retrainings`` (begun after the first model), ``promotions`` (those that replaced a model),
              ``refusals`` (REJECT and INCONCLUSIVE), ``rollbacks``, ``regretted_promotions``, and of these
              ``proved_regrets``, whose interval lies above 0;
            - ``alarms``, ``false_alarms``, ``events``, ``detected``, ``detection_delay_days`` (mean of the detected
              ones): null where no events are known, or the policy does not watch;
            - ``cost``: what missed positives, refused good cases and retrainings cost less what was gained, in
              ``currency``; null where the policy gives no costs;
            - ``regret_log_loss``, ``regret_brier``: expected scores of what was served less those of the truth
              (``simulation_scores.Regret``), over labelled and unlabelled cases; null where nobody knows them.
        differences: one row for each policy, ``against`` another, and ``metric`` (``auc``, ``auc_within``, ``f1``,
            ``brier``, ``log_loss``, ``expected_over_observed``, ``off_balance``: |log(expected / observed)|,
            ``calibration_error``, ``cost``): ``difference`` is the policy's figure less the other's, with a paired
            two-sided interval.
    """

    use_case: str
    title: str
    period: str
    from_time: datetime
    until: datetime
    compared_from: datetime
    compared_until: datetime
    seed: int
    confidence: float
    currency: str
    policies: tuple[str, ...]
    chunks: pl.DataFrame
    actions: pl.DataFrame
    models: pl.DataFrame
    alarms: pl.DataFrame
    events: pl.DataFrame
    summary: pl.DataFrame
    differences: pl.DataFrame

    def to_json(self) -> dict[str, Any]:
        """The figures by policy, as ``selfheal backtest --json`` prints them."""
        by_policy = {
            row["policy"]: {k: v for k, v in row.items() if k != "policy"} for row in self.summary.to_dicts()
        }
        for row in self.differences.to_dicts():
            found = by_policy[row["policy"]].setdefault("differences", {}).setdefault(row["against"], {})
            found[row["metric"]] = {k: row[k] for k in ("difference", "lower", "upper")}
        return {
            "use_case": self.use_case,
            "from": f"{self.compared_from:%Y-%m-%d}",
            "until": f"{self.compared_until:%Y-%m-%d}",
            "seed": self.seed,
            "policies": by_policy,
        }
