"""Decide: gates over the evidence, one recorded decision, and the alias that follows the ledger."""

import time
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from selfheal_assets.core import evaluation, fingerprint, gates
from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.decision import Action, Decision, decide
from selfheal_assets.core.policies import GatePolicy
from selfheal_assets.defs.resources import (
    Context,
    Stores,
    StoresParam,
    table_metadata,
)
from selfheal_assets.defs.retrain import challenger_of
from selfheal_assets.stores import cases, decision_ledger
from selfheal_assets.stores.model_registry import QUARANTINED

GROUP = "decide"


def serving_trial(stores: Stores, version: int, trained: Bundle, rows: pl.DataFrame) -> gates.Servability:
    """Fetch the registered bundle as the service would, score the rows, and time one row at a time."""
    size_mb = sum(len(content) for content in trained.to_files().values()) / 1e6
    try:
        served = stores.registry.fetch(version)
    except (OSError, ValueError, KeyError, LookupError) as error:
        return gates.Servability(
            False, float("inf"), float("inf"), size_mb, f"{type(error).__name__}: {error}"
        )
    difference = float(np.max(np.abs(served.score(rows) - trained.score(rows)), initial=0.0))
    single = rows.head(1)
    started = time.perf_counter()
    for _ in range(20):
        served.score(single)
    return gates.Servability(True, difference, (time.perf_counter() - started) * 1000 / 20, size_mb)


def _comparisons(stores: Stores, challenger: int) -> list[evaluation.Comparison]:
    """What shadow_evaluation found for this challenger."""
    if not stores.warehouse.has("shadow_evaluation"):
        return []
    rows = stores.warehouse.query(
        """select metric, champion_value as champion, challenger_value as challenger, lower, upper, "rows",
                  positives, segment from shadow_evaluation where challenger = ?""",
        [challenger],
    )
    return [evaluation.Comparison(**row) for row in rows.iter_rows(named=True)]


def gather(stores: Stores, version: int, challenger: Bundle, champion: int | None) -> gates.GateInputs:
    """All evidence of one decision; what is missing stays ``None``."""
    window = challenger.reference
    every = cases.matured_cases(stores.warehouse, stores.case, window.as_of, window.start, window.end)
    rows = every.filter(pl.col("label").is_not_null())
    compared = _comparisons(stores, version)
    overall = {c.metric: c for c in compared if c.segment == "all"}
    flagged = challenger.score(rows) >= challenger.threshold
    groups = [s for s in stores.case.segments if s.fairness]
    return gates.GateInputs(
        as_of=window.as_of,
        overall=overall if {"f1", "roc_auc", "brier"} <= set(overall) else None,
        segments=[c for c in compared if c.segment != "all"] if compared else None,
        label_coverage=rows.height / every.height if every.height else None,
        last_promotion=decision_ledger.last_promotion(stores.warehouse, window.as_of) or gates.NEVER,
        servability=serving_trial(stores, version, challenger, rows.head(1000)),
        approvals={s.name: evaluation.approvals(rows, flagged, s) for s in groups} if rows.height else None,
        has_champion=champion is not None,
        ineligible=_ineligible(stores, version, challenger, champion),
    )


def _ineligible(stores: Stores, version: int, challenger: Bundle, champion: int | None) -> str:
    if version == champion:
        return f"version {version} is the champion already: nothing new was learned"
    if reason := stores.registry.tags(version).get(QUARANTINED):
        return f"version {version} is quarantined: {reason}"
    if not challenger.calibrator.keeps_the_ranking:
        return (
            f"version {version} turns its own ranking round (Platt slope {challenger.calibrator.slope:.2g}): on "
            "cases it had not seen, higher scores meant fewer positives, so it has learned nothing that holds"
        )
    return ""


def decision_of(
    stores: Stores, version: int, challenger: Bundle, champion: int | None, policy: GatePolicy
) -> tuple[Decision, list[gates.GateResult]]:
    """Evaluate the gates and put the answer, with its evidence, into a decision."""
    inputs = gather(stores, version, challenger, champion)
    results = gates.evaluate_gates(inputs, policy)
    action, reason = decide(results)
    prints = {
        "challenger": challenger.fingerprint,
        "training_set": challenger.training_fingerprint,
        "use_case": stores.case.fingerprint,
        "champion": stores.registry.load(champion).fingerprint if champion else "",
    }
    evidence = {
        "gates": [{k: v for k, v in vars(r).items()} for r in results],
        "window": {k: str(v) for k, v in vars(challenger.reference).items()},
    }
    return Decision(action, inputs.as_of, reason, champion, version, evidence, prints), results


def _repeats(decision: Decision, last: dict[str, Any]) -> bool:
    """Whether the last decision was over the same evidence, or is the one that made this challenger champion."""
    known, ours = last["payload"]["fingerprints"], decision.fingerprints
    if last["action"] == Action.promote.value and decision.challenger == decision.champion:
        return known | {"champion": ""} == ours | {"champion": ""}
    return known == ours


@dg.asset(group_name=GROUP, kinds={"duckdb"}, deps=["shadow_evaluation"])
def promotion_decision(context: Context, stores: StoresParam) -> dg.MaterializeResult:
    """Every gate's answer and what follows from it: PROMOTE, REJECT or INCONCLUSIVE, recorded with evidence.

    A rerun over the same challenger, champion, data and policy records nothing new.
    """
    version, challenger = challenger_of(stores)
    champion = stores.registry.champion()
    decision, results = decision_of(stores, version, challenger, champion, stores.case.policy.gates)
    last = decision_ledger.latest(stores.warehouse)
    repeated = last is not None and _repeats(decision, last)
    if last and repeated:
        number, action, reason = last["id"], last["action"], last["reason"]
    else:
        number = decision_ledger.record(stores.warehouse, decision)
        action, reason = decision.action.value, decision.reason
    shown = pl.DataFrame([{"gate": r.gate, "verdict": r.verdict.value, "reason": r.reason} for r in results])
    context.log.info(f"decision {number}: {action}: {reason}")
    return dg.MaterializeResult(
        metadata={
            "decision": number,
            "action": action,
            "reason": reason,
            "challenger": version,
            "champion": champion or "none yet",
            "unchanged": repeated,
            "gates": table_metadata(shown),
        },
        data_version=dg.DataVersion(fingerprint.of_value(decision.fingerprints)),
    )


def follow_ledger(stores: Stores) -> tuple[int | None, int | None]:
    """Move the champion's alias to where the ledger says it belongs; returns (before, after).

    The newest PROMOTE or ROLL_BACK names the champion. Running it again changes nothing, so a run that died
    between the decision and the move is mended by the next one.
    """
    rows = stores.warehouse.query(
        "select action, champion, challenger from decisions where action in (?, ?) order by id desc limit 1",
        [Action.promote.value, Action.roll_back.value],
    )
    before = stores.registry.champion()
    if rows.is_empty():
        return before, before
    wanted = int(rows["challenger"][0])
    stores.registry.move_champion(wanted)
    return before, wanted


@dg.asset(group_name=GROUP, kinds={"mlflow", "xgboost"}, deps=[promotion_decision], output_required=False)
def production_model(context: Context, stores: StoresParam):
    """The champion: the version that the service answers with. Materialized only when it changes.

    The service takes the new version up by itself; the one before keeps the alias previous_champion.
    """
    before, after = follow_ledger(stores)
    if after is None or before == after:
        last = decision_ledger.latest(stores.warehouse)
        why = f"{last['action']}: {last['reason']}" if last else "no decision was taken yet"
        context.log.info(f"the champion stays version {before}. {why}")
        return
    bundle = stores.registry.load(after)
    yield dg.MaterializeResult(
        metadata={
            "version": after,
            "previous": before or "none",
            "fingerprint": bundle.fingerprint,
            "trained_until": f"{bundle.trained_until:%Y-%m-%d}",
            "threshold": bundle.threshold,
        },
        data_version=dg.DataVersion(bundle.fingerprint),
    )
