"""Labels joined to predictions: the dbt project's models as assets, its tests as checks.

Keys, dependencies and descriptions come from dbt's manifest; what a model computes is in ``dbt_project``. dbt
runs in process, a tenth of the cost of its command line, while the warehouse is locked.
"""

from collections.abc import Collection, Iterator, Mapping
from graphlib import TopologicalSorter
from typing import Any

import dagster as dg

from selfheal_assets.defs.check_catalogue import described_test
from selfheal_assets.defs.resources import Stores, as_of_of
from selfheal_assets.settings import Settings
from selfheal_assets.stores import tables
from selfheal_assets.stores.dbt_project import STANDING, DbtProject, NodeResult

_UNIQUE_ID = "dagster_dbt/unique_id"
_NO_ASSETS = frozenset({dg.AssetKey("clock"), dg.AssetKey("reference_cells")})
_ROWS = "select table_name, estimated_size from duckdb_tables() where schema_name = 'main'"


def build_dbt_assets(settings: Settings, partitions_def: dg.PartitionsDefinition) -> dg.AssetsDefinition:
    """The models of ``dbt_project`` as one op that can build any part of them.

    Args:
        settings: where the project, the warehouse and dbt's working folder are.
        partitions_def: the loop's chunks; a partition stands at its end.
    """
    from dagster_dbt import dbt_assets

    project = DbtProject(settings.project / "dbt_project", settings.root / "dbt", settings.warehouse_path)
    manifest = project.manifest()
    standing = StandingViews(manifest)

    @dbt_assets(
        manifest=manifest,
        name="dbt_models",
        partitions_def=partitions_def,
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        dagster_dbt_translator=_translator(),
    )
    def dbt_models(context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]) -> Iterator[Any]:
        models, checks = _selected(context)
        with stores.warehouse.shared():
            if models:  # checks alone judge what was built, at the time it was built for
                tables.set_clock(stores.warehouse, stores.case, as_of_of(context, stores))
            chosen, stand = {*models, *checks}, standing.among(models, stores.warehouse.is_kept)
            left = chosen - {result.unique_id for result in stand}
            built = project.build(_names(manifest, chosen), views=not stand) if left else []
            results = standing.joined(stand, built)
            rows = dict(stores.warehouse.query(_ROWS).iter_rows())
        yield from _events(results, models, checks, rows)

    return dbt_models


class StandingViews:
    """The views that this process has built and that therefore need not be built again.

    Only where the process keeps the warehouse to itself, as a replay does: else another one could have replaced them
    by those of another version.
    """

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        nodes = manifest["nodes"].items()
        self._views = {name for name, node in nodes if node["config"]["materialized"] == STANDING}
        self._built: set[str] = set()
        after = {name: node["depends_on"]["nodes"] for name, node in nodes}
        self._order = {name: place for place, name in enumerate(TopologicalSorter(after).static_order())}

    def among(self, models: Collection[str], alone: bool) -> list[NodeResult]:
        """The chosen models that stand already, as results; none, unless all chosen views do."""
        chosen = self._views.intersection(models)
        if not alone or not chosen <= self._built:
            return []
        return [NodeResult(name, "success", "", None, 0.0, None) for name in sorted(chosen)]

    def joined(self, stand: list[NodeResult], built: list[NodeResult]) -> list[NodeResult]:
        """What stands and what was built, each after what it is made of; nothing stands on what failed."""
        self._built |= {r.unique_id for r in built if r.status == "success"} & self._views
        if not stand or any(r.status in ("error", "skipped") for r in built):
            return built
        return sorted([*stand, *built], key=lambda result: self._order[result.unique_id])


def _translator() -> Any:
    """dagster-dbt's translator, without the tables that are no assets."""
    from dagster_dbt import DagsterDbtTranslator

    class Translator(DagsterDbtTranslator):
        """Models read the clock, which the op writes itself, and the cells of each version's frozen reference."""

        def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: Any) -> dg.AssetSpec:
            spec = super().get_asset_spec(manifest, unique_id, project)
            return spec.replace_attributes(deps=[dep for dep in spec.deps if dep.asset_key not in _NO_ASSETS])

        def get_asset_check_spec(self, *args: Any, **named: Any) -> dg.AssetCheckSpec | None:
            spec = super().get_asset_check_spec(*args, **named)
            return described_test(spec) if spec else None

    return Translator()


def _names(manifest: Mapping[str, Any], chosen: set[str]) -> list[str]:
    """dbt's names of the chosen nodes; none if they are all, which spares dbt the search."""
    nodes = manifest["nodes"]
    return [] if chosen >= set(nodes) else [".".join(nodes[node]["fqn"]) for node in sorted(chosen)]


def _selected(
    context: dg.AssetExecutionContext,
) -> tuple[dict[str, dg.AssetKey], dict[str, dg.AssetCheckKey]]:
    """What the run asks for, by dbt's unique id: models and tests."""
    assets = context.assets_def
    models = {assets.get_asset_spec(key).metadata[_UNIQUE_ID]: key for key in context.selected_asset_keys}
    checks = {
        (assets.get_spec_for_check_key(key).metadata or {})[_UNIQUE_ID]: key
        for key in context.selected_asset_check_keys
    }
    return models, checks


def _events(
    results: list[NodeResult],
    models: Mapping[str, dg.AssetKey],
    checks: Mapping[str, dg.AssetCheckKey],
    rows: Mapping[str, int],
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Dagster's events, in dbt's order.

    Raises:
        dg.Failure: a model did not build, or a test of severity error found rows; names each of them.
    """
    for result in results:
        metadata: dict[str, Any] = {"dbt/status": result.status, "dbt/seconds": round(result.seconds, 3)}
        if result.unique_id in models and result.status == "success":
            key = models[result.unique_id]
            if (count := rows.get(key.path[-1])) is not None:
                metadata["dagster/row_count"] = count
            yield dg.MaterializeResult(asset_key=key, metadata=metadata)
        elif result.unique_id in checks and result.status in ("pass", "warn", "fail"):
            check, warns = checks[result.unique_id], result.status == "warn"
            yield dg.AssetCheckResult(
                asset_key=check.asset_key,
                check_name=check.name,
                passed=result.status == "pass",
                severity=dg.AssetCheckSeverity.WARN if warns else dg.AssetCheckSeverity.ERROR,
                metadata=metadata | {"dbt/failed_rows": result.failures or 0},
            )
    if failed := [result for result in results if result.status in ("fail", "error")]:
        raise dg.Failure("\n".join(map(_complaint, failed)), allow_retries=False)


def _complaint(result: NodeResult) -> str:
    kind, _, name = result.unique_id.split(".")[:3]
    where = f"; its SQL, to run by hand: {result.compiled}" if result.compiled else ""
    return f"dbt {kind} '{name}' failed: {result.message.strip()}{where}"
