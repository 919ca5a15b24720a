"""From lives to the backtest's frames: every policy judged by the labels that were known in the end."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from selfheal_assets.backtest.history import Known
from selfheal_assets.backtest.life import RETRAIN, Done, Life
from selfheal_assets.backtest.policies import Kind
from selfheal_assets.core import backtest as frames
from selfheal_assets.core.backtest import Backtest
from selfheal_assets.core.backtest_figures import Answers, compared_figures
from selfheal_assets.core.backtest_scores import Promotion, Regret, alarm_figures, regret
from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.decision import Action
from selfheal_assets.core.maturity import chunks_in_horizon
from selfheal_assets.core.periods import IN_THE_END, chunk_end
from selfheal_assets.core.simulation_scores import AlarmScores, score_alarms
from selfheal_assets.core.simulation_scores import regret as true_regret
from selfheal_assets.use_case import UseCase

_REFUSED = (Action.reject.value, Action.inconclusive.value)


@dataclass(frozen=True)
class Outcome:
    """Lives over the same chunks, and which cases they are judged by."""

    known: Known
    lives: dict[str, Life]
    starts: list[datetime]
    judged_from: datetime
    end: datetime

    @cached_property
    def cases(self) -> pl.DataFrame:
        """The answered cases of the chunks: ``event_time``, ``label`` (null: never known), ``chunk`` (its place)."""
        where = self.known.answered(self.known.go_live, self.end)
        rows = self.known.traffic[where].select("entity_id", "event_time")
        labels = self.known.outcomes.select("entity_id", "label")
        place = pl.Series(
            "chunk",
            np.searchsorted(np.array(self.starts, "datetime64[us]"), rows["event_time"].to_numpy(), "right")
            - 1,
        )
        return rows.join(labels, on="entity_id", how="left", maintain_order="left").with_columns(place)

    @cached_property
    def judged(self) -> np.ndarray:
        """Which of ``cases`` count in the summary (bool)."""
        told = (self.cases["event_time"] >= self.judged_from) & self.cases["label"].is_not_null()
        return told.to_numpy()

    def answers(self, life: Life, which: np.ndarray) -> Answers:
        """A policy's answers to some of the labelled cases."""
        probability, flagged, _ = life.answers()
        chunk = self.cases["chunk"].to_numpy()[which]
        chunk = np.unique(chunk, return_inverse=True)[1]
        costs, retrainings = life.policy.case.policy.costs, len(self._done(life, RETRAIN))
        spent = costs.retraining * retrainings if costs else 0.0
        label = self.cases["label"].to_numpy()[which].astype(np.int8)
        return Answers(label, probability[which], flagged[which], chunk, costs, spent)

    def _done(self, life: Life, *actions: str) -> list[Any]:
        """The decisions of these kinds, the first model's promotion not among them."""
        return [d for d in life.done if d.action in actions and d.champion is not None]

    def chunks(self) -> pl.DataFrame:
        """See ``core.backtest.Backtest.chunks``."""
        labelled = self.cases["label"].is_not_null().to_numpy()
        place, rows = self.cases["chunk"].to_numpy(), []
        for name, life in self.lives.items():
            for number, start in enumerate(self.starts):
                which = labelled & (place == number)
                rows.append((name, start, *self._of_chunk(life, which), life.served[start]))
        return pl.DataFrame(rows, schema=frames.CHUNKS, orient="row").with_columns(
            pl.selectors.float().fill_nan(None)
        )

    def _of_chunk(self, life: Life, which: np.ndarray) -> tuple[Any, ...]:
        if not which.any():
            return 0, 0, None, None, None, None
        answers = self.answers(life, which)
        found = answers.figures(np.ones(len(answers.label)))
        told = (found[f] for f in ("auc", "f1", "brier", "expected_over_observed"))
        return len(answers.label), int(answers.label.sum()), *told

    def promotions(self, life: Life) -> dict[int, Regret | None]:
        """By place in ``done``, the regret of each promotion that replaced a model."""
        moved = (Action.promote.value, Action.roll_back.value)
        moves = [(place, done) for place, done in enumerate(life.done) if done.action in moved]
        ends = [done.as_of for _, done in moves[1:]] + [self.end]
        return {
            place: self._regretted(life, done, until)
            for (place, done), until in zip(moves, ends, strict=True)
            if done.action == Action.promote.value and done.champion is not None
        }

    def _regretted(self, life: Life, done: Done, until: datetime) -> Regret | None:
        """Of a promotion: on the labelled cases of the chunks that it served."""
        chunks = [n for n, start in enumerate(self.starts) if done.as_of <= start < until]
        assert done.challenger is not None and done.champion is not None
        promoted, replaced = (
            np.concatenate(
                [np.empty(0), *(life.shared.scores(life.models[n - 1], self.starts[c]) for c in chunks)]
            )
            for n in (done.challenger, done.champion)
        )
        served = self.cases.filter(pl.col("chunk").is_in(chunks))["label"]
        known = served.is_not_null().to_numpy()
        label = served.drop_nulls().to_numpy().astype(np.int8)
        return regret(Promotion(label, promoted[known], replaced[known]))

    def actions(self) -> pl.DataFrame:
        """See ``core.backtest.Backtest.actions``."""
        rows = []
        for name, life in self.lives.items():
            lost = self.promotions(life)
            for place, d in enumerate(life.done):
                told = (name, d.as_of, d.action, d.champion, d.challenger, d.reason)
                more = lost.get(place)
                rows.append(
                    (*told, more.value > 0, more.value, more.lower, more.upper)
                    if more
                    else (*told, *[None] * 4)
                )
        return pl.DataFrame(rows, schema=frames.ACTIONS, orient="row")

    def models(self) -> pl.DataFrame:
        """See ``core.backtest.Backtest.models``."""
        rows = [
            (name, n, m.candidate, m.trained_from, m.trained_until, _trained_on(m), m.fingerprint)
            for name, life in self.lives.items()
            for n, m in enumerate(life.models, 1)
        ]
        return pl.DataFrame(rows, schema=frames.MODELS, orient="row")

    def alarms(self) -> pl.DataFrame:
        """See ``core.backtest.Backtest.alarms``."""
        rows = []
        for name, life in self.lives.items():
            scores = self._alarm_scores(life)
            rows += [
                (name, at, check, None if scores is None else at in scores.false_alarms, why)
                for at, check, why in life.alarms
            ]
        return pl.DataFrame(rows, schema=frames.ALARMS, orient="row")

    def _alarm_scores(self, life: Life) -> AlarmScores | None:
        """How the policy's alarms answer the known events; an alarm may be a horizon late, as labels are."""
        truth, case = self.known.history.truth, self.known.case
        if truth is None or life.policy.kind not in (Kind.gated, Kind.on_drift):
            return None
        patience = chunks_in_horizon(case.label, case.monitoring.chunk)
        return score_alarms(truth.in_force, self.starts, {at for at, _, _ in life.alarms}, patience=patience)

    def _regret(self, life: Life) -> dict[str, float | None]:
        """Of all answers to judged cases, labelled or not, against the true probabilities."""
        chances = self.known.chances
        if chances is None:
            return {"regret_log_loss": None, "regret_brier": None}
        which = (self.cases["event_time"] >= self.judged_from).to_numpy()
        found = true_regret(chances[: len(which)][which], life.answers()[0][which])
        return {"regret_log_loss": found.log_loss, "regret_brier": found.brier}

    @property
    def _ends(self) -> dict[datetime, datetime]:
        period = self.known.case.monitoring.chunk
        return {start: chunk_end(start, period) for start in self.starts}

    def summary(self, actions: pl.DataFrame, alarms: pl.DataFrame) -> pl.DataFrame:
        """See ``core.backtest.Backtest.summary``."""
        rows = []
        for name, life in self.lives.items():
            answers = self.answers(life, self.judged)
            found = answers.figures(np.ones(len(answers.label)))
            mine = actions.filter((pl.col("policy") == name) & pl.col("champion").is_not_null())
            alarmed = alarms.filter(pl.col("policy") == name)
            rows.append(
                {"policy": name, "looked_at_after": life.policy.looked_at_after}
                | {"rows": len(answers.label), "positives": int(answers.label.sum())}
                | {k: v for k, v in found.items() if k in frames.SUMMARY}
                | {
                    "retrainings": int((mine["action"] == RETRAIN).sum())
                    if life.policy.kind is not Kind.oracle
                    else len(self._done(life, Action.promote.value)),
                    "promotions": int((mine["action"] == Action.promote.value).sum()),
                    "refusals": int(mine["action"].is_in(_REFUSED).sum()),
                    "rollbacks": int((mine["action"] == Action.roll_back.value).sum()),
                    "regretted_promotions": int(mine["regretted"].sum()),
                    "proved_regrets": int((mine["regret_lower"] > 0).sum()),
                    "alarms": alarmed["chunk"].n_unique(),
                }
                | alarm_figures(self._alarm_scores(life), self._ends)
                | self._regret(life)
            )
        return pl.DataFrame(rows, schema=frames.SUMMARY, orient="row").with_columns(
            pl.selectors.float().fill_nan(None)
        )


def _trained_on(model: Bundle) -> datetime:
    """The day a model was trained; the oracle's stands at the end of time, and learns until its day."""
    as_of = model.reference.as_of
    return model.trained_until if as_of == IN_THE_END else as_of


def backtest_of(
    outcome: Outcome, case: UseCase, against: str, seed: int, resamples: int, confidence: float
) -> Backtest:
    """All frames of a backtest; see ``core.backtest.Backtest``."""
    answers = {name: outcome.answers(life, outcome.judged) for name, life in outcome.lives.items()}
    rows = compared_figures(answers, against, resamples, seed, confidence) if resamples else []
    actions, alarms = outcome.actions(), outcome.alarms()
    costs, truth = case.policy.costs, outcome.known.history.truth
    return Backtest(
        use_case=case.name,
        title=case.title,
        period=case.monitoring.chunk,
        from_time=outcome.starts[0],
        until=outcome.end,
        compared_from=outcome.judged_from,
        compared_until=outcome.end,
        seed=seed,
        confidence=confidence,
        currency=costs.currency if costs else "",
        policies=tuple(outcome.lives),
        chunks=outcome.chunks(),
        actions=actions,
        models=outcome.models(),
        alarms=alarms,
        events=truth.events if truth else pl.DataFrame(schema=frames.EVENTS),
        summary=outcome.summary(actions, alarms),
        differences=pl.DataFrame(rows, schema=frames.DIFFERENCES, orient="row"),
    )
