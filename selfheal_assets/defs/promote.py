"""Decide: gates over the evidence, one recorded decision, and the alias that follows the ledger."""

from dataclasses import replace
from typing import Any

import dagster as dg
import polars as pl

from selfheal_assets.core import evaluation, fingerprint
from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.decision import Action, Decision, decide
from selfheal_assets.core.gate_evidence import GateInputs, GateResult, Servability
from selfheal_assets.core.gate_inputs import gate_inputs, ineligible
from selfheal_assets.core.gates import evaluate_gates
from selfheal_assets.core.policies import GatePolicy
from selfheal_assets.defs.evaluate import challenger_of
from selfheal_assets.defs.resources import (
    WINDOW_TAG,
    Context,
    Stores,
    StoresParam,
    table_metadata,
)
from selfheal_assets.serving.servability import TRIALS, Trial
from selfheal_assets.stores import decision_ledger, promotion
from selfheal_assets.stores.approvals import LOOP, REQUESTED_BY
from selfheal_assets.stores.gate_rows import gate_cases
from selfheal_assets.stores.model_registry import PREDECESSOR, QUARANTINED

GROUP = "decide"


def serving_trial(stores: Stores, version: int, trained: Bundle, rows: pl.DataFrame) -> Servability:
    """Have a fresh process load the registered bundle as the service does, and score the rows."""
    content = trained.to_files().values()
    trial = Trial(
        stores.settings, version, rows, trained.score(rows), stores.registry.tags(version).get("fingerprint")
    )
    return TRIALS.run(trial, stores.case.policy.gates.serving_timeout_s, sum(map(len, content)) / 1e6)


def _comparisons(stores: Stores, champion: int | None, challenger: int) -> list[evaluation.Comparison]:
    """What shadow_evaluation found for this challenger against this champion."""
    if not stores.warehouse.has("shadow_evaluation"):
        return []
    rows = stores.warehouse.query(
        """select metric, champion_value as champion, challenger_value as challenger, lower, upper, "rows",
                  positives, segment from shadow_evaluation
           where challenger = ? and champion is not distinct from ?""",
        [challenger, champion],
    )
    return [evaluation.Comparison(**row) for row in rows.iter_rows(named=True)]


def gather(stores: Stores, version: int, challenger: Bundle, champion: int | None) -> GateInputs:
    """All evidence of one decision; what is missing stays ``None``."""
    case, warehouse = stores.case, stores.warehouse
    rows = gate_cases(warehouse, case, stores.registry.load(champion) if champion else None, challenger)
    return gate_inputs(
        challenger,
        rows,
        _comparisons(stores, champion, version),
        case.policy.gates,
        case.segments,
        last_promotion=decision_ledger.last_promotion(warehouse, challenger.reference.as_of),
        servability=serving_trial(stores, version, challenger, rows.head(1000)),
        has_champion=champion is not None,
        ineligible=ineligible(version, challenger, champion, stores.registry.tags(version).get(QUARANTINED)),
    )


def decision_of(
    stores: Stores, version: int, challenger: Bundle, champion: int | None, policy: GatePolicy
) -> tuple[Decision, list[GateResult]]:
    """Evaluate the gates and put the answer, with its evidence, into a decision."""
    inputs = gather(stores, version, challenger, champion)
    results = evaluate_gates(inputs, policy)
    action, reason = decide(results)
    prints = {
        "challenger": challenger.fingerprint,
        "training_set": challenger.training_fingerprint,
        "use_case": stores.case.fingerprint,
        "champion": stores.registry.load(champion).fingerprint if champion else "",
        "evidence": fingerprint.of_value([vars(c) for c in _comparisons(stores, champion, version)]),
    }
    evidence = {
        "gates": [{k: v for k, v in vars(r).items()} for r in results],
        "window": {k: str(v) for k, v in vars(challenger.reference).items()},
    }
    as_of = challenger.reference.as_of
    return Decision(action, as_of, reason, champion, version, evidence, prints), results


def _repeats(decision: Decision, last: dict[str, Any]) -> bool:
    """Whether the last decision was over the same evidence, or is the one that made this challenger champion."""
    known, ours = last["payload"]["fingerprints"], decision.fingerprints
    if last["action"] == Action.promote.value and decision.challenger == decision.champion:
        compared = {"champion": "", "evidence": ""}  # with itself there is nothing to compare
        return known | compared == ours | compared
    return known == ours


def _recorded(stores: Stores, decision: Decision, asked_by: str) -> tuple[int, Decision]:
    """Record the decision; a promotion that must be approved first is recorded as PENDING, with who asked for it."""
    if decision.action is not Action.promote:
        return decision_ledger.record(stores.warehouse, decision), decision
    if not stores.case.policy.gates.approval:
        return promotion.record(stores.warehouse, decision), decision
    asked = decision.evidence | {REQUESTED_BY: asked_by}
    waiting = replace(decision, action=Action.pending, evidence=asked)
    return decision_ledger.record(stores.warehouse, waiting), waiting


@dg.asset(group_name=GROUP, kinds={"duckdb"}, deps=["shadow_evaluation"])
def promotion_decision(context: Context, stores: StoresParam) -> dg.MaterializeResult:
    """Every gate's answer and what follows from it: PROMOTE, REJECT or INCONCLUSIVE, recorded with evidence.

    A rerun over the same challenger, champion, data and policy records nothing new. Where the policy asks for
    approval, PENDING stands in place of PROMOTE.
    """
    TRIALS.start()  # where shadow_models has not, in another process: its imports take seconds
    version, challenger = challenger_of(stores)
    champion = follow_ledger(stores)[1]
    decision, results = decision_of(stores, version, challenger, champion, stores.case.policy.gates)
    last = decision_ledger.latest(stores.warehouse)
    repeated = last is not None and _repeats(decision, last)
    if last and repeated:
        number, action, reason = last["id"], last["action"], last["reason"]
    else:
        asked_by = LOOP if WINDOW_TAG in context.run.tags else stores.settings.user
        number, decision = _recorded(stores, decision, asked_by)
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
    """Move the champion's alias to where the ledger says it belongs; returns (before, after)."""
    return promotion.carry_out(stores.warehouse, stores.registry)


def _told(context: Context) -> int | None:
    """The champion that the newest materialization of ``production_model`` tells of."""
    event = context.instance.get_latest_materialization_event(context.asset_key)
    told = (
        event.asset_materialization.metadata.get("version") if event and event.asset_materialization else None
    )
    return int(told.value) if told is not None else None  # type: ignore[arg-type]


@dg.asset(group_name=GROUP, kinds={"mlflow", "xgboost"}, deps=[promotion_decision], output_required=False)
def production_model(context: Context, stores: StoresParam):
    """The champion: the version that the service answers with. Materialized only when it has changed.

    The service takes the new version up by itself; the one before keeps the alias previous_champion.
    """
    _, champion = follow_ledger(stores)
    if champion is None or champion == _told(context):
        last = decision_ledger.latest(stores.warehouse)
        why = f"{last['action']}: {last['reason']}" if last else "no decision was taken yet"
        context.log.info(f"the champion stays version {champion}. {why}")
        return
    bundle = stores.registry.load(champion)
    yield dg.MaterializeResult(
        metadata=champion_metadata(stores, champion), data_version=dg.DataVersion(bundle.fingerprint)
    )


def champion_metadata(stores: Stores, version: int) -> dict[str, Any]:
    """What ``production_model`` shows of a version."""
    bundle = stores.registry.load(version)
    return {
        "version": version,
        "previous": stores.registry.aliased(PREDECESSOR) or "none",
        "fingerprint": bundle.fingerprint,
        "trained_until": f"{bundle.trained_until:%Y-%m-%d}",
        "threshold": bundle.threshold,
    }
