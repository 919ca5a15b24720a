"""What the policies of a backtest share: the history as known, models that were trained, their scores and profiles.

Two policies that would train the same (the same cases as known, plan, parameters and, where it matters, champion)
share the fit; two that serve the same model share its scores, and what is monitored of it.
"""

from datetime import datetime

import numpy as np
import polars as pl

from selfheal_assets.backtest.history import Known
from selfheal_assets.backtest.kept import Kept, bundle_from_json, bundle_to_json
from selfheal_assets.core import fingerprint
from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.material import Material
from selfheal_assets.core.maturity import TimingCurve
from selfheal_assets.core.periods import IN_THE_END, add_months
from selfheal_assets.core.plan import TrainingPlan
from selfheal_assets.core.selection import choose_challenger, fitted
from selfheal_assets.core.spec import FamilyName
from selfheal_assets.defs.champion import ChampionProfile, profile_of
from selfheal_assets.stores import cases
from selfheal_assets.use_case import UseCase


class Shared:
    """See the module.

    Args:
        known: the history.
        kept: where trained models and findings are kept.
    """

    def __init__(self, known: Known, kept: Kept) -> None:
        self.known, self.kept = known, kept
        self._scores: dict[tuple[str, datetime], np.ndarray] = {}
        self._profiles: dict[tuple[str, str], ChampionProfile] = {}
        self._curves: dict[datetime, TimingCurve] = {}
        self._bundles: dict[str, Bundle] = {}

    def scores(self, bundle: Bundle, start: datetime) -> np.ndarray:
        """The model's probabilities of the cases of the chunk that begins then, in the order of ``traffic``."""
        key = bundle.fingerprint, start
        if key not in self._scores:
            self._scores[key] = bundle.score(self.known.traffic[self.known.of_chunk(start)])
        return self._scores[key]

    def curve(self, as_of: datetime) -> TimingCurve:
        """When positives become known, as it was known."""
        if as_of not in self._curves:
            self._curves[as_of] = cases.timing_curve(self.known.warehouse, self.known.case, as_of)
        return self._curves[as_of]

    def profile(self, bundle: Bundle, case: UseCase) -> ChampionProfile:
        """The model with its reference; by policy, which says how it is counted."""
        key = bundle.fingerprint, policy_name(case)
        if key not in self._profiles:
            window, warehouse = bundle.reference, self.known.warehouse
            rows = cases.matured_cases(warehouse, case, window.as_of, window.start, window.end)
            rows = rows.filter(pl.col("label").is_not_null()).select(
                "entity_id", "event_time", *case.feature_names, "label"
            )
            self._profiles[key] = profile_of(0, bundle, rows, bundle.fingerprint, warehouse, case)
        return self._profiles[key]

    def fit(self, member: FamilyName, material: Material) -> Bundle:
        """A member fitted, or taken from what was fitted before."""
        name = _fit_name(member, material)
        if name in self._bundles:
            return self._bundles[name]
        saved = self.kept.get("models", name)
        bundle = bundle_from_json(saved) if saved else fitted(member, material)
        if not saved:
            self.kept.put("models", name, bundle_to_json(bundle))
        return self._bundles.setdefault(name, bundle)

    def challenger(
        self, case: UseCase, plan: TrainingPlan, champion: Bundle | None, preferred: FamilyName | None = None
    ) -> tuple[Bundle, pl.DataFrame]:
        """The challenger that the loop would train by this plan, and its training set.

        Raises:
            NotEnoughData: there is too little to learn from, or no member can be fitted.
        """
        rows = cases.learnable_rows(self.known.warehouse, case, plan)
        name, curve = cases.fingerprint_of(rows), self.curve(plan.as_of)
        material = Material(rows, plan, case.features, case.training, case.name, name, curve, champion)
        return choose_challenger(material, preferred=preferred, fit=self.fit).bundle, rows

    def oracle(self, case: UseCase, as_of: datetime) -> Bundle:
        """The best of what could be trained at a time on the labels that were known in the end.

        The family's members that learn from matured cases; the horizon has passed for all of them.

        Raises:
            NotEnoughData: no member can be fitted.
        """
        wanted = [m for m in case.training.family if m in ("full_history", "recent_window")]
        family = tuple(wanted) or ("full_history",)
        training = case.training.model_copy(update={"family": family, "folds": 2})  # it is dear enough
        known = self.known.known(as_of, as_of, IN_THE_END, answered_only=False)
        rows = known.filter(pl.col("label").is_not_null()).select(
            "entity_id", "event_time", *case.feature_names, "label",
            pl.when(pl.col("label") == 1).then(0.0).alias("positive_age_days"),
        )  # fmt: skip
        start = add_months(as_of, -training.validation_months)
        plan = TrainingPlan(IN_THE_END, start, as_of, as_of)
        name, curve = cases.fingerprint_of(rows), self.curve(as_of)
        material = Material(rows, plan, case.features, training, case.name, name, curve)
        return choose_challenger(material, fit=self.fit).bundle


def policy_name(case: UseCase) -> str:
    """Names what a policy monitors by."""
    monitored = [case.policy.model_dump(mode="json"), case.monitoring.model_dump(mode="json")]
    return fingerprint.of_value([*monitored, case.training.seed])


def _fit_name(member: FamilyName, material: Material) -> str:
    """Names all that a fit depends on."""
    champion = material.champion.fingerprint if material.champion and member == "recalibrated" else ""
    training = material.training.model_dump(mode="json", exclude={"family", "parallel_fits"})
    alone = "full_history" not in material.training.family
    plan = {k: str(v) for k, v in vars(material.plan).items()}
    return fingerprint.of_value(
        [
            member,
            material.fingerprint,
            plan,
            training,
            alone,
            material.calibrated,
            champion,
            material.use_case,
        ]
    )
