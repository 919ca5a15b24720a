"""What the Dagster UI says of each check: the healthy truth, what a failure means, and what to do next.

The same 'what to do' ends the message of each failed evaluation, so whoever reads the message need look nowhere else.
"""

from dataclasses import dataclass

import dagster as dg

from selfheal_assets.defs.catalogue import explained

WAIT = (
    "nothing yet: unknown is not healthy, but no alarm either and starts no retraining. Wait for the rows or labels "
    "that are missing; if they should be there, see `selfheal status` and docs/troubleshooting.md"
)


@dataclass(frozen=True)
class CheckWords:
    """What the check states, what its failure means, what to do."""

    what: str
    failure: str
    mend: str


CHECKS = {
    "schema_is_valid": CheckWords(
        "Every row of the chunk is as the use case declares its features. Blocks what follows.",
        "logged rows break the schema, so nothing that follows can be trusted; no retraining starts (FIX_DATA)",
        "find who sends such rows (`sample` has them), mend the sender, or the bounds in the use case, then "
        "materialize prediction_log of this chunk again",
    ),
    "event_times_are_plausible": CheckWords(
        "No logged case happened before go-live or in the future.",
        "some rows lie in no chunk, so nobody judges them; a clock or a time zone is wrong",
        "mend the clock or the time zone of who sent the rows in `sample`; new rows are then right by themselves",
    ),
    "label_times_are_plausible": CheckWords(
        "No label was recorded before its case happened, or in the future.",
        "the labels' source has a wrong clock or time zone, or one id names two cases",
        "look at the clock and the ids of the source that `sample` names, and land corrected labels",
    ),
    "label_ids_agree": CheckWords(
        "A label that names both a case and an answer names an answer of that case.",
        "`prediction_id` and `entity_id` of a label belong to different cases; it counts for its `entity_id`, which "
        "may be the wrong one",
        "mend the join in the source that `sample` names, and land corrected labels",
    ),
    "inputs_are_intact": CheckWords(
        "No feature is stuck, missing, recoded or in another unit, against the chunks before.",
        "a feature's data broke; a retraining would learn from it, so none starts (FIX_DATA)",
        "mend the pipeline of the features named, and let the next chunk show it; do not retrain",
    ),
    "drift_within_limits": CheckWords(
        "Neither inputs nor scores changed since the champion's reference, at a bounded chance of false alarms.",
        "they changed; that says 'look', it is not yet harm",
        "open the chunk's report for which features moved, since when and how, and rule out broken data first; where "
        "`retrain_on` names this check a retraining starts by itself and the gates decide",
    ),
    "estimated_performance_holds": CheckWords(
        "The estimated ROC AUC, without labels, is not below the reference's by more than the policy allows.",
        "the champion probably ranks worse on such cases, provided that feature and outcome relate as before",
        "compare calibration_holds and realized_performance_holds in the chunk's report, and get labels of new "
        "cases sooner if you can; where `retrain_on` names this check a retraining starts by itself",
    ),
    "calibration_holds": CheckWords(
        "As many cases are positive so far as the champion expected, by a test that may be looked at every chunk.",
        "the champion expects far too few or too many positives: harm, shown long before the labels mature",
        "open the chunk's report for the cohorts that are off, make sure that labels arrive as they used to "
        "(`GET /labels/status`), then see `selfheal decisions`: the loop retrains or recalibrates",
    ),
    "realized_performance_holds": CheckWords(
        "On matured labels, today's champion loses no more than on its reference and ranks no worse.",
        "the champion is shown to be worse than when it was chosen",
        "open the chunk's report for metrics and segments, then see `selfheal decisions`; if the "
        "version before is better, `selfheal rollback --to N`",
    ),
}

_GENERIC = {
    "is_key": "The key has no empty value, and no two rows share it.",
    "is_share": "Every value lies in 0..1.",
    "accepted_values": "The column holds declared values only.",
}
_TEST = CheckWords(
    "",
    "rows of the model break this rule, so figures made of it would be wrong; unless it only warns, the run stops",
    "run the test's SQL that the error names, mend what is upstream of the rows found, then materialize it again",
)


def check_spec(name: str, asset: str, blocking: bool = False) -> dg.AssetCheckSpec:
    """One of our own checks, with its words."""
    said = CHECKS[name]
    return dg.AssetCheckSpec(
        name, asset=asset, blocking=blocking, description=explained(said.what, said.failure, said.mend)
    )


def described_test(spec: dg.AssetCheckSpec) -> dg.AssetCheckSpec:
    """One of dbt's tests, with its words: its own description, or that of its kind.

    Raises:
        LookupError: it has neither; name what it states in its ``config.meta.description``.
    """
    kinds = (said for kind, said in _GENERIC.items() if spec.name.startswith(kind))
    what = spec.description or next(kinds, "")
    if not what:
        raise LookupError(f"dbt test '{spec.name}' has no description: give it one beside its SQL")
    return spec._replace(description=explained(what, _TEST.failure, _TEST.mend))


def next_step(check: str, known: bool) -> str:
    """What to do about an evaluation that did not pass."""
    return CHECKS[check].mend if known else WAIT
