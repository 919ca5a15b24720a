"""Roll back: during its probation a champion is compared with its predecessor; one that fails goes back at once."""

from datetime import datetime
from typing import Any

import dagster as dg
import polars as pl

from selfheal_assets.core.decision import Action, Decision
from selfheal_assets.core.maturity import aged_cases
from selfheal_assets.core.rollback import RollbackEvidence, in_probation, judge_promotion
from selfheal_assets.defs.catalogue import explained
from selfheal_assets.defs.monitor import LABELLED
from selfheal_assets.defs.promote import GROUP, champion_metadata, follow_ledger
from selfheal_assets.defs.resources import Context, Stores, StoresParam, chunk_of
from selfheal_assets.serving.models import Model, made_ready
from selfheal_assets.stores import cases, champion_failures, chunks, decision_ledger, promotion
from selfheal_assets.stores.champion_failures import ChampionFailure, Kind
from selfheal_assets.stores.model_registry import PREDECESSOR, QUARANTINED
from selfheal_assets.stores.warehouse import WarehouseBusy

GUARD_PATIENCE_S = 2.0  # it comes round again in seconds, and must not keep the daemon waiting


def _evidence(
    stores: Stores, since: datetime, as_of: datetime, champion: int, predecessor: int
) -> RollbackEvidence:
    rows = chunks.labelled_predictions(stores.warehouse, since, as_of)
    scored = aged_cases(rows, stores.registry.load(champion).score(rows)).rename({"probability": "champion"})
    policy = stores.case.policy
    return judge_promotion(
        scored.with_columns(predecessor=pl.Series(stores.registry.load(predecessor).score(rows))),
        cases.timing_curve(stores.warehouse, stores.case, since),
        policy.rollback,
        policy.probation_days,
    )


def roll_back(
    stores: Stores, as_of: datetime, champion: int, predecessor: int, reason: str, evidence: dict[str, Any]
) -> int:
    """Record the rollback, quarantine the version, give the alias back; returns the decision's number."""
    decision = Decision(
        Action.roll_back,
        as_of,
        reason,
        champion,
        predecessor,
        evidence,
        {
            role: stores.registry.fingerprint(n)
            for role, n in (("champion", champion), ("challenger", predecessor))
        },
    )
    number = promotion.record(stores.warehouse, decision)
    follow_ledger(stores)
    return number


def way_back(stores: Stores, champion: int) -> int | str:
    """The version that a champion's rollback leads to, or why there is none."""
    predecessor = stores.registry.aliased(PREDECESSOR)
    if predecessor is None or predecessor == champion:
        return "nothing to take back: there is no predecessor"
    if QUARANTINED in stores.registry.tags(predecessor):
        return f"version {predecessor} is quarantined: there is nothing to go back to"
    return predecessor


def settle_failures(stores: Stores) -> list[str]:
    """Take back the champion if a service reported that it failed technically; says what was done of each report."""
    folder = stores.settings.champion_failures
    return [_settled(stores, failure) for failure in champion_failures.reported(folder)]


def _settled(stores: Stores, failure: ChampionFailure) -> str:
    version, folder = failure.version, stores.settings.champion_failures
    if version != follow_ledger(stores)[1]:
        champion_failures.settle(folder, version)
        return f"version {version} failed ({failure.reason}), and is not champion any more"
    predecessor = way_back(stores, version)
    if isinstance(predecessor, str):
        return f"version {version} failed ({failure.reason}): {predecessor}"
    if failure.kind is Kind.does_not_load and (doubt := _doubt(stores, version, predecessor)):
        return f"a service cannot load version {version} ({failure.reason}), {doubt}"
    told = {"kind": failure.kind.value, "reported_at": failure.at.isoformat()}
    number = roll_back(stores, stores.settings.now(), version, predecessor, failure.reason, told)
    champion_failures.settle(folder, version)
    return f"decision {number}: version {version} is taken back: {failure.reason}"


def _doubt(stores: Stores, version: int, predecessor: int) -> str:
    """Why a version that a service cannot load need not be at fault; empty where it is."""
    if not loading_problem(stores, version):
        return "but it loads here: mend the service, its log says what it lacks"
    if problem := loading_problem(stores, predecessor):
        return f"but version {predecessor} before it cannot be loaded either ({problem}): mend the registry"
    return ""


def loading_problem(stores: Stores, version: int) -> str:
    """Why a version cannot be loaded and scored with; empty where it can."""
    from mlflow.exceptions import MlflowException

    try:
        made_ready(Model(version, stores.registry.fetch(version)), stores.case)
    except (MlflowException, OSError, ValueError, LookupError) as error:
        return f"it does not load: {type(error).__name__}: {error}"
    return ""


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

        Bets on predecessor against champion over the cases since the promotion: they falsely roll back a champion
        that is no worse with at most the policy's probability, however often they are looked at.
        """
        chunk, policy = chunk_of(context, stores.case), stores.case.policy
        for told in settle_failures(stores):
            context.log.warning(told)
        promoted, champion = (
            decision_ledger.last_promotion(stores.warehouse, chunk.end),
            stores.registry.champion(),
        )
        if champion is None or promoted is None:
            context.log.info("nothing to take back: nothing was promoted")
            return
        predecessor = way_back(stores, champion)
        if isinstance(predecessor, str):
            context.log.info(predecessor)
            return
        if not in_probation(promoted, chunk.end, policy.probation_days):
            context.log.info(f"version {champion} is past its probation")
            return
        evidence = _evidence(stores, promoted, chunk.end, champion, predecessor)
        if evidence.roll_back:
            roll_back(stores, chunk.end, champion, predecessor, evidence.reason, vars(evidence))
        yield dg.MaterializeResult(
            metadata=vars(evidence) | {"champion": champion, "predecessor": predecessor}
        )

    return [rollback_decision]


def _champion_in_words(stores: Stores) -> str:
    champion = stores.registry.champion()
    return f"version {champion} is champion, as the ledger says" if champion else "there is no champion yet"


def build_champion_guard(owners: list[str]) -> dg.SensorDefinition:
    """The sensor that needs no chunk: it finishes what a killed promoter left, and takes back what fails."""
    kept: list[Stores] = []

    @dg.sensor(
        name="keep_champion_sound",
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=explained(
            "Finishes promotions that were cut off; takes back a champion that a service reports as failing.",
            "such a promotion or rollback waits; services protect themselves meanwhile with the version before",
            "read the tick's error (registry or warehouse out of reach), mend it; by hand: `selfheal rollback`",
        ),
        owners=owners,
    )
    def keep_champion_sound(context: dg.SensorEvaluationContext, stores: StoresParam):
        if not kept:  # opened once, not every five seconds
            kept.append(Stores(stores.settings.model_copy(update={"lock_timeout_s": GUARD_PATIENCE_S})))
        [quick] = kept
        try:
            before = promotion.newest_verdict(quick.warehouse)
            told = [
                *filter(None, [promotion.recover(quick.warehouse, quick.registry)]),
                *settle_failures(quick),
            ]
        except WarehouseBusy as busy:
            return dg.SkipReason(f"{busy}; tried again in seconds")
        after = promotion.newest_verdict(quick.warehouse)
        reason = dg.SkipReason(
            "; ".join(told) or f"{_champion_in_words(quick)}, and no service reports a failure"
        )
        if after is None or after == before:
            return reason
        shown = champion_metadata(quick, after.version)
        event = dg.AssetMaterialization("production_model", metadata=shown)
        return dg.SensorResult(skip_reason=reason, asset_events=[event])

    return keep_champion_sound
