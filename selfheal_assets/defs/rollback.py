"""Roll back: during its probation a champion is compared with its predecessor on what came after."""

from datetime import datetime

import dagster as dg

from selfheal_assets.core.decision import Action, Decision
from selfheal_assets.core.rollback import RollbackEvidence, in_probation, judge_promotion
from selfheal_assets.defs.monitor import LABELLED
from selfheal_assets.defs.promote import GROUP, follow_ledger
from selfheal_assets.defs.resources import Context, Stores, StoresParam, chunk_of
from selfheal_assets.stores import cases, chunks, decision_ledger
from selfheal_assets.stores.model_registry import QUARANTINED


def _evidence(
    stores: Stores, since: datetime, as_of: datetime, champion: int, predecessor: int
) -> RollbackEvidence:
    rows = chunks.labelled_predictions(stores.warehouse, since, as_of)
    curve = cases.timing_curve(stores.warehouse, stores.case, as_of)
    return judge_promotion(
        stores.registry.load(champion).score(rows),
        stores.registry.load(predecessor).score(rows),
        rows["positive_so_far"].to_numpy(),
        curve.known_by(rows["age_days"].to_numpy()),
        stores.case.policy.alarms,
    )


def roll_back(
    stores: Stores, as_of: datetime, champion: int, predecessor: int, evidence: RollbackEvidence
) -> int:
    """Record the rollback, quarantine the version, give the alias back; returns the decision's number."""
    decision = Decision(
        Action.roll_back,
        as_of,
        evidence.reason,
        champion,
        predecessor,
        vars(evidence) | {},
        {v: stores.registry.load(n).fingerprint for v, n in (("from", champion), ("to", predecessor))},
    )
    number = decision_ledger.record(stores.warehouse, decision)
    stores.registry.tag(champion, QUARANTINED, evidence.reason)
    follow_ledger(stores)
    return number


def build_rollback_assets(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The rollback decision, one partition per chunk."""

    @dg.asset(
        group_name=GROUP,
        kinds={"duckdb", "mlflow"},
        partitions_def=partitions,
        deps=[LABELLED],
        output_required=False,
    )
    def rollback_decision(context: Context, stores: StoresParam):
        """Whether the newest promotion is taken back. Materialized only while a promotion is in probation.

        A likelihood ratio of predecessor against champion over the cases since the promotion: it falsely rolls
        back a well-calibrated champion with at most the policy's probability, however often it is looked at.
        """
        chunk = chunk_of(context, stores.case)
        promoted = decision_ledger.last_promotion(stores.warehouse, chunk.end)
        champion, predecessor = stores.registry.champion(), stores.registry.aliased("previous_champion")
        if champion is None or predecessor is None or promoted is None:
            context.log.info("nothing to take back: there is no predecessor")
            return
        if QUARANTINED in stores.registry.tags(predecessor):
            context.log.info(f"version {predecessor} is quarantined: there is nothing to go back to")
            return
        if not in_probation(promoted, chunk.end, stores.case.policy.probation_days):
            context.log.info(f"version {champion} is past its probation")
            return
        evidence = _evidence(stores, promoted, chunk.end, champion, predecessor)
        if evidence.roll_back:
            roll_back(stores, chunk.end, champion, predecessor, evidence)
        yield dg.MaterializeResult(
            metadata=vars(evidence) | {"champion": champion, "predecessor": predecessor}
        )

    return [rollback_decision]
