"""One policy, lived through chunk by chunk: who served, what was found, what was done.

The order within a chunk is the replay's: the champion answers, the labels of the chunk become known, the checks are
made, a promotion is taken back, a retraining that is due is done, all as of the chunk's end. Each decision is made by
the function of the core that makes it in production.
"""

from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from selfheal_assets.backtest.checks import DRIFT, Checks
from selfheal_assets.backtest.gating import Question, taken_back, verdict_on
from selfheal_assets.backtest.held import Soundness
from selfheal_assets.backtest.policies import BacktestPolicy, Kind
from selfheal_assets.backtest.shared import Shared
from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.decision import Action
from selfheal_assets.core.diagnosis import Remedy
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.periods import chunk_end
from selfheal_assets.core.plan import NotEnoughData, TrainingPlan, plan_training
from selfheal_assets.core.retraining_rule import Due, Records, Withheld, next_due
from selfheal_assets.core.rollback import in_probation
from selfheal_assets.stores import cases

RETRAIN = "RETRAIN"


@dataclass(frozen=True)
class Done:
    """One decision: when, what, the models it is about, why."""

    as_of: datetime
    action: str
    champion: int | None
    challenger: int | None
    reason: str


@dataclass
class Life:
    """What has happened under one policy so far; see the module.

    Attributes:
        shared: what all policies share.
        checks: likewise.
        policy: which one.
        models: every model trained, the first champion first; a model's number is its place, from 1.
        served: by chunk, the number of the model that served it.
        done: every decision.
        alarms: chunk, check, reason of each failed check that may start a retraining.
    """

    shared: Shared
    checks: Checks
    policy: BacktestPolicy
    models: list[Bundle] = field(default_factory=list)
    served: dict[datetime, int] = field(default_factory=dict)
    done: list[Done] = field(default_factory=list)
    alarms: list[tuple[datetime, str, str]] = field(default_factory=list)
    champion: int | None = None
    predecessor: int | None = None
    quarantined: dict[int, str] = field(default_factory=dict)
    promoted_at: datetime | None = None
    _statuses: dict[str, dict[str, Status]] = field(default_factory=dict)
    _tried: dict[str, int | None] = field(default_factory=dict)
    _held: set[str] = field(default_factory=set)
    _told: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._soundness = Soundness(self.shared.known.warehouse, self.policy)

    def begin(self, as_of: datetime) -> None:
        """Train the first champion.

        Raises:
            NotEnoughData: there cannot be one.
        """
        if self.policy.kind is Kind.oracle:
            self._deploy(self.shared.oracle(self.policy.case, as_of), as_of, "the first model")
            return
        plan = self._plan(as_of)
        bundle, rows = self.shared.challenger(self.policy.case, plan, None)
        self._soundness.remember(rows, plan)
        self._deploy(bundle, as_of, "the first model")

    def live_through(self, number: int, start: datetime) -> None:
        """One chunk, the ``number``-th (from 1)."""
        assert self.champion is not None
        self.served[start] = self.champion
        end = chunk_end(start, self.policy.case.monitoring.chunk)
        kind = self.policy.kind
        if kind is Kind.gated:
            self._monitor(start)
            back = self._roll_back(end)
            self._heal(end, back)
        elif kind is Kind.oracle:
            self._deploy(self.shared.oracle(self.policy.case, end), end, "all labels are known")
        elif kind is Kind.every and number % max(self.policy.every, 1) == 0:
            self._retrain_ungated(end, f"{self.policy.every} chunks have passed")
        elif kind is Kind.on_drift and (reason := self._drifted(start)):
            self._retrain_ungated(end, reason)

    def _of_champion(self) -> tuple[datetime, ...]:
        """The chunks that today's champion has served."""
        return tuple(c for c, model in self.served.items() if model == self.champion)

    @property
    def _bundle(self) -> Bundle:
        assert self.champion is not None
        return self.models[self.champion - 1]

    def _number(self, bundle: Bundle) -> int:
        """The model's number; a model that was trained before keeps its own."""
        for number, known in enumerate(self.models, 1):
            if known.fingerprint == bundle.fingerprint:
                return number
        self.models.append(bundle)
        return len(self.models)

    def _note(self, as_of: datetime, action: str, challenger: int | None, reason: str) -> None:
        self.done.append(Done(as_of, action, self.champion, challenger, reason))

    def _deploy(self, bundle: Bundle, as_of: datetime, reason: str) -> None:
        number = self._number(bundle)
        if number == self.champion:
            return
        self._note(as_of, Action.promote.value, number, reason)
        self.predecessor, self.champion, self.promoted_at = self.champion, number, as_of

    def _drifted(self, start: datetime) -> str:
        found = self.checks.finding(DRIFT, self._bundle, self.policy.case, self._of_champion())
        if found.status is not Status.failed:
            return ""
        self.alarms.append((start, DRIFT, found.reason))
        return f"{DRIFT} failed: {found.reason}"

    def _plan(self, as_of: datetime) -> TrainingPlan:
        case = self.policy.case
        champion = self._bundle if self.champion else None
        partial = case.policy.gates.evidence == "partial"
        newest = cases.gates_from(self.shared.known.warehouse, case, as_of) if partial else None
        return plan_training(as_of, case.label, case.training, champion, case.reference, newest)

    def _retrain_ungated(self, as_of: datetime, reason: str) -> None:
        self._note(as_of, RETRAIN, None, reason)
        try:
            bundle, _ = self.shared.challenger(self.policy.case, self._plan(as_of), self._bundle)
        except NotEnoughData as error:
            self._note(as_of, Action.hold.value, None, str(error))
            return
        self._deploy(bundle, as_of, "deployed without a gate")

    def _monitor(self, start: datetime) -> None:
        case, window = self.policy.case, f"{start:%Y-%m-%d}"
        found = self.checks.of_data(case, start)
        for check in case.policy.retrain_on:
            finding = self.checks.finding(check, self._bundle, case, self._of_champion())
            found.append(finding)
            if finding.status is Status.failed:
                self.alarms.append((start, check, finding.reason))
        for finding in found:
            self._statuses.setdefault(finding.check, {})[window] = finding.status

    def _roll_back(self, as_of: datetime) -> bool:
        """Take the newest promotion back, if its probation says so."""
        days, since = self.policy.case.policy.probation_days, self.promoted_at
        way_back = self.predecessor if self.predecessor not in self.quarantined else None
        if way_back is None or since is None or not in_probation(since, as_of, days):
            return False
        evidence = taken_back(
            self.shared, self.policy.case, since, as_of, self._bundle, self.models[way_back - 1]
        )
        if not evidence.roll_back:
            return False
        assert self.champion is not None
        self._note(as_of, Action.roll_back.value, way_back, evidence.reason)
        self.quarantined[self.champion] = evidence.reason
        self.predecessor, self.champion = self.champion, way_back
        return True

    def _heal(self, as_of: datetime, rolled_back: bool) -> None:
        """Do the retraining that is due; what is withheld is noted once for each window and cause."""
        case = self.policy.case
        records = Records(self._statuses, self._tried, self._held)
        due = next_due(records, case.policy, case.monitoring.chunk, lambda at: rolled_back and at == as_of)
        if isinstance(due, str):
            return
        if isinstance(due, Withheld):
            if (due.window, due.cause) not in self._told:
                self._told.add((due.window, due.cause))
                self._note(as_of, due.action.value, None, due.reason)
            return
        try:
            self._tried[due.window] = None
            self._retrain(as_of, due)
        except NotEnoughData as error:
            self._tried[due.window] = case.policy.retraining_attempts
            self._note(as_of, Action.hold.value, None, str(error))

    def _retrain(self, as_of: datetime, due: Due) -> None:
        case, plan = self.policy.case, self._plan(as_of)
        held, found_right = self._soundness.judge(plan)
        if held:
            self._held.add(due.window)
            self._note(as_of, Action.fix_data.value, None, held)
            return
        accepted = (
            f"; somebody looked at the training set and found right: {found_right}" if found_right else ""
        )
        self._note(as_of, RETRAIN, None, f"{', '.join(due.checks)} failed in {due.window}{accepted}")
        preferred = "recalibrated" if due.remedy is Remedy.recalibrate else None
        bundle, rows = self.shared.challenger(case, plan, self._bundle, preferred)
        self._soundness.remember(rows, plan)
        number = self._number(bundle)
        verdict = verdict_on(self.shared, case, self._bundle, bundle, self._question(number))
        self._note(as_of, verdict.action.value, number, verdict.reason)
        if verdict.action is Action.promote:
            self.predecessor, self.champion, self.promoted_at = self.champion, number, as_of

    def _question(self, number: int) -> Question:
        return Question(number, self.champion, self.quarantined.get(number), self.promoted_at)

    def answers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each answered case of the chunks lived through: probability, whether it was flagged, the model's number.

        In the order of ``known.traffic``, up to the end of the last chunk.
        """
        parts = []
        for start, model in self.served.items():
            bundle = self.models[model - 1]
            score = self.shared.scores(bundle, start)
            parts.append((score, score >= bundle.threshold, np.full(len(score), model)))
        probability, flagged, number = (np.concatenate(p) for p in zip(*parts, strict=True))
        return probability, flagged, number
