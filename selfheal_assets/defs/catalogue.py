"""What the Dagster UI says of each asset beyond its docstring: what a failure means, what to do, owner, table.

Words for people belong here, for asset after asset; those of checks are in ``check_catalogue``, those of columns in
``core.column_words``. A new asset without an entry fails ``build_definitions``.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import dagster as dg

STAGES = ("reference", "ingest", "monitor", "report", "retrain", "decide")
STAGE_TAG = "selfheal/stage"  # sorts as the loop runs; the groups' own names are what people select by


@dataclass(frozen=True)
class Said:
    """What a failure means, what to do about it, and the warehouse's table that the asset fills, if it is one."""

    failure: str
    mend: str
    table: str = ""


_READ = "the warehouse cannot be read or written: its disk is full, or another process holds it"
_LOOK = (
    "look at the step's error; free the disk, or wait for the other process, and materialize the chunk again"
)
_MODEL = "dbt could not build the table, or one of its tests found rows that break it; the error names them"
_BUILD = "read the SQL named in the error, mend the data upstream (or the model), then materialize it again"

_DBT = (
    "stg_predictions", "stg_labels", "fct_labelled_predictions", "fct_cohort_maturity", "fct_label_coverage",
    "fct_stability", "fct_score_bands", "fct_ranking", "fct_vintage_curves", "fct_swap_set", "fct_group_approvals",
)  # fmt: skip

ASSETS = {
    "applications": Said(
        "a row of the source breaks the use case, so nothing was loaded; the error names column, row and rule",
        "mend the file, or the feature's bounds in the use case, and materialize it again",
        "applications",
    ),
    "reference_data": Said(
        "the reference window holds no labelled case, so no champion can be judged",
        "check `reference` in the use case and that the source reaches that far, or promote a newer model",
        "reference_data",
    ),
    "prediction_log": Said(
        "a segment of the service's log is damaged, or the warehouse is busy; the rows stay on disk",
        "follow docs/runbook.md ('Ingestion fails'), then materialize it again: no row is added twice",
        "prediction_log",
    ),
    "labels": Said(
        "the ledger could not be written; unreadable rows do not fail it, they go to `labels/rejected` with a reason",
        "free the disk, or wait for the process that holds the warehouse, and materialize it again; mend and drop "
        "rejected files anew",
        "labels",
    ),
    "proxy_metrics": Said(_READ, _LOOK, "proxy_metrics"),
    "chunk_statistics": Said(_READ, _LOOK, "chunk_statistics"),
    "univariate_drift": Said(
        "the chunk was not counted, or its figures break the table's schema",
        "materialize chunk_statistics of the chunk first; a broken schema is a fault of the code: report it",
        "univariate_drift",
    ),
    "multivariate_drift": Said(
        "NannyML could not be fitted on the reference; an alert alone (`alert`) is a hint, it fails nothing",
        "read the step's error and look at reference_data; on an alert look at univariate_drift",
        "multivariate_drift",
    ),
    "drift_alarms": Said(
        "a chunk before it was not counted; the error names it",
        "materialize chunk_statistics for the chunks named, then this one; for a failed check see its own page",
        "drift_alarms",
    ),
    "estimated_performance": Said(
        "the chunk was not counted, or an estimate breaks the table's schema",
        "materialize chunk_statistics of the chunk, then this one; for a failed check see its own page",
        "estimated_performance",
    ),
    "partial_label_evidence": Said(
        "fct_labelled_predictions is missing or unreadable; harm does not fail the asset but its check",
        "materialize labels and fct_labelled_predictions of the chunk, then this one",
        "partial_label_evidence",
    ),
    "realized_performance": Said(
        "fct_labelled_predictions is missing or unreadable; harm does not fail the asset but its check",
        "materialize labels and fct_labelled_predictions of the chunk, then this one",
        "realized_performance",
    ),
    "drift_report": Said(
        "the page could not be written: the disk is full, or `RUN/reports` cannot be written to",
        "free the disk or mend the rights, and materialize it again; figures are kept in the tables upstream",
    ),
    "health_report": Said(
        "the chunk's row could not be made or published; readers still see the last one",
        "materialize the monitoring assets of the chunk, then this one",
        "health_report",
    ),
    "training_set": Said(
        "too few matured, labelled cases were known on that day; nothing is trained and the champion stays",
        "wait for labels or shorten `training`'s windows; if the rows are held (FIX_DATA), follow docs/runbook.md "
        "('A training set is held')",
        "training_set",
    ),
    "shadow_models": Said(
        "the family could not be trained: positives are missing, or memory or time ran out",
        "read which in the error; start retrain_job again once there are labels",
        "shadow_models",
    ),
    "shadow_evaluation": Said(
        "there is no challenger, or the cases that both models should score cannot be read",
        "materialize shadow_models first; where the cases cannot tell, the decision is INCONCLUSIVE by itself",
        "shadow_evaluation",
    ),
    "promotion_decision": Said(
        "nothing was decided, and the champion stays. REJECT and INCONCLUSIVE are answers, not failures",
        "mend what the error names and materialize it again; `selfheal decisions show N` has each gate's reason",
        "decisions",
    ),
    "production_model": Said(
        "the registry could not be reached, so the alias is not yet where the ledger says",
        "bring the registry back; the next run or tick of keep_champion_sound finishes it",
    ),
    "model_card": Said(
        "no page was written; the decision stands in the ledger all the same",
        "mend what the error names (a full disk, a bundle that does not load) and materialize it again, or run "
        "`selfheal card VERSION`",
    ),
    "rollback_decision": Said(
        "the promotion in probation was not judged in this chunk; the champion stays",
        "mend what the error names and materialize it again, or `selfheal rollback` at once (docs/runbook.md)",
        "decisions",
    ),
} | {name: Said(_MODEL, _BUILD, name) for name in _DBT}  # fmt: skip


def explained(what: str | None, failure: str, mend: str) -> str:
    """The three parts of a description, as Markdown."""
    return f"{(what or '').strip()}\n\n**A failure means:** {failure}.\n\n**What to do:** {mend}."


def described(spec: dg.AssetSpec, owners: Iterable[str], columns: dict[str, dg.TableSchema]) -> dg.AssetSpec:
    """The asset's spec with all that the UI shows of it.

    Args:
        spec: as the asset's own file declares it; its description says what the asset is.
        owners: who answers for it.
        columns: of the warehouse's tables, by name.

    Raises:
        LookupError: the catalogue has no entry, or its table no columns.
    """
    name = spec.key.path[-1]
    if name not in ASSETS:
        raise LookupError(
            f"asset '{name}' says nothing of its failures: add it to selfheal_assets/defs/catalogue.py"
        )
    said = ASSETS[name]
    stage = STAGES.index(spec.group_name or "") + 1
    metadata = dict(spec.metadata)
    if said.table and "dagster/column_schema" not in metadata:
        metadata |= {"dagster/column_schema": columns[said.table], "dagster/table_name": f"main.{said.table}"}
    return spec.replace_attributes(
        description=explained(spec.description, said.failure, said.mend),
        owners=[*owners],
        metadata=metadata,
        tags={**spec.tags, STAGE_TAG: f"{stage}_{spec.group_name}"},
    )
