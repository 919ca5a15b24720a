"""Soundness: a training set that must not be trained on is held, once, with its reason, and the champion stays."""

from selfheal_assets.core.decision import Action, Decision
from selfheal_assets.core.label_soundness import training_faults
from selfheal_assets.core.plan import TrainingPlan
from selfheal_assets.defs.resources import HELD_TAG, Context, Stores
from selfheal_assets.stores import cases, decision_ledger
from selfheal_assets.stores.training_evidence import kept_training_set, training_evidence


def held(context: Context, stores: Stores, plan: TrainingPlan) -> str:
    """Why the plan's training set is held; empty where it is sound, or was accepted before.

    The first to find it records FIX_DATA; the run is tagged, so that it starts no cooldown.
    """
    kept, policy = kept_training_set(stores.warehouse, stores.case), stores.case.policy.soundness
    if (
        kept
        and (kept.known_at, kept.until) == (plan.as_of, plan.evaluate_from)
        and _is_as_frozen(stores, plan)
    ):
        return ""
    evidence = training_evidence(stores.warehouse, stores.case, plan, kept)
    faults = training_faults(evidence, policy)
    if not faults:
        return ""
    name = cases.fingerprint_of(evidence.rows)  # what was judged: more than is trained on
    if name in policy.accepted:
        context.log.warning(
            f"training set {name} was accepted (policy.soundness.accepted): {faults[0].reason}"
        )
        return ""
    reason = (
        f"training set {name} is held: {'; '.join(f.reason for f in faults)}. Mend the data and start the retraining "
        f"again, or, if this is right, add {name} to policy.soundness.accepted"
    )
    shown = [vars(f) for f in faults]
    prints = {"training_set": name, "use_case": stores.case.fingerprint}
    decision = Decision(
        Action.fix_data, plan.as_of, reason, None, None, {"cause": name, "faults": shown}, prints
    )
    decision_ledger.record_once(stores.warehouse, decision, "cause")
    context.instance.add_run_tags(context.run_id, {HELD_TAG: "true"})
    context.log.error(reason)
    return reason


def _is_as_frozen(stores: Stores, plan: TrainingPlan) -> bool:
    """Whether what was known is still what was accepted for this very plan."""
    rows = cases.training_rows(stores.warehouse, stores.case, plan)
    found = stores.warehouse.query("select fingerprint from sources where name = ?", [cases.TRAINING_SET])
    return found["fingerprint"][0] == cases.fingerprint_of(rows)
