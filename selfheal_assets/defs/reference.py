"""Reference: the history before go-live, and the frozen cases the champion is judged against."""

from datetime import datetime

import dagster as dg

from selfheal_assets.core.bundle import ReferenceWindow
from selfheal_assets.defs.resources import Context, Stores, StoresParam, as_of_of, rows_in, table_metadata
from selfheal_assets.stores.applications import load_history
from selfheal_assets.stores.cases import freeze_reference

GROUP = "reference"


@dg.asset(group_name=GROUP, kinds={"duckdb", "parquet"})
def applications(stores: StoresParam) -> dg.MaterializeResult:
    """Cases from before go-live, validated row by row against the use case and loaded whole or not at all."""
    load = load_history(stores.warehouse, stores.settings)
    return dg.MaterializeResult(
        metadata=rows_in("applications", load.rows)
        | {"fingerprint": load.fingerprint, "changed": load.changed},
        data_version=dg.DataVersion(load.fingerprint),
    )


def configured_window(stores: Stores, as_of: datetime) -> ReferenceWindow:
    """The use case's reference period, with the labels known at go-live or now, whichever is earlier."""
    period = stores.case.reference
    start, end, live = (
        datetime.combine(day, datetime.min.time()) for day in (period.start, period.end, stores.case.go_live)
    )
    return ReferenceWindow(start, end, min(as_of, live))


@dg.asset(group_name=GROUP, kinds={"duckdb"}, deps=[applications])
def reference_data(context: Context, stores: StoresParam) -> dg.MaterializeResult:
    """The frozen, fingerprinted cases the champion is judged against: held out from its training.

    Before the first champion this is the use case's reference period; each promoted version brings its own.
    """
    load_history(stores.warehouse, stores.settings)
    champion = stores.registry.load_champion()
    window = champion[1].reference if champion else configured_window(stores, as_of_of(context, stores))
    frozen = freeze_reference(stores.warehouse, stores.case, window)
    personal = [f.name for f in stores.case.features if f.personal]
    return dg.MaterializeResult(
        metadata=rows_in("reference_data", frozen.frame.height)
        | {
            "positives": int(frozen.frame["label"].sum()),
            "window": f"{window.start:%Y-%m-%d} to {window.end:%Y-%m-%d}",
            "champion": champion[0] if champion else "none yet",
            "fingerprint": frozen.fingerprint,
            "changed": frozen.changed,
            "sample": table_metadata(frozen.frame.drop("entity_id", *personal), rows=5),
        },
        data_version=dg.DataVersion(frozen.fingerprint),
    )
