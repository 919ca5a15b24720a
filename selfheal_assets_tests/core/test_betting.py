"""Harm on known losses: bounded false alarms over all looks, found fast, the same however the sums came about."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta, binom

from selfheal_assets.core.betting import (
    LossBet,
    LossSums,
    bet_on,
    bet_size,
    effect_size,
    error_counts,
    log_limit,
    log_wealth_counts,
    log_wealth_sums,
    loss_sums,
    start_weights,
    upper_mean,
)
from selfheal_assets.core.evidence_policy import HarmAlarms

REALIZED_ONLY = HarmAlarms(horizon_chunks=200, partial_share=0.0)


def history(seed: int, rates: list[float], rows: int = 500, reference_rows: int = 10_000) -> LossBet:
    rng = np.random.default_rng(seed)
    reference = error_counts(reference_rows, int(rng.binomial(reference_rows, 0.07)))
    return bet_on(reference, [error_counts(rows, int(rng.binomial(rows, r))) for r in rates], REALIZED_ONLY)


def first_alarm(seed: int, rates: list[float], **sizes: int) -> int | None:
    """Chunks until the alarm, counted from 1."""
    full = history(seed, rates, **sizes)
    for seen in range(1, len(rates) + 1):
        if LossBet(full.reference, full.policy, full.seen[:seen]).harmful:
            return seen
    return None


@pytest.mark.parametrize("reference_rows", [200, 10_000])
def test_unchanged_errors_rarely_alarm_however_often_they_are_looked_at(reference_rows):
    histories = 150
    alarmed = sum(
        first_alarm(s, [0.07] * 60, reference_rows=reference_rows) is not None for s in range(histories)
    )
    assert alarmed <= histories * (0.05 + 3 * math.sqrt(0.05 * 0.95 / histories))


def test_more_errors_from_the_first_chunk_are_found_in_three():
    found = [first_alarm(s, [0.09] * 30) or 99 for s in range(200)]
    assert np.median(found) <= 3


def test_a_late_change_is_found_and_dated():
    late = [history(s, [0.07] * 20 + [0.105] * 12) for s in range(30)]
    assert sum(bet.harmful for bet in late) >= 28
    firsts = [bet.first_chunk for bet in late]
    assert abs(np.median(firsts) - 20) <= 1


def test_money_for_late_starts_is_what_finds_late_changes():
    """With everything staked on the first chunk, twenty good chunks have lost it before the change comes."""
    rates = [0.05] * 20 + [0.1] * 8
    counts = [error_counts(500, round(500 * r)) for r in rates]
    reference = error_counts(20_000, 1400)
    assert bet_on(reference, counts, REALIZED_ONLY).harmful
    assert not bet_on(reference, counts, REALIZED_ONLY.model_copy(update={"first_share": 1 - 1e-9})).harmful


def shiryaev_roberts(errors: np.ndarray) -> np.ndarray:
    """(histories, chunks) log of the statistic for 0.07 → 0.09, both known, summed over every start."""
    ratio = errors * math.log(0.09 / 0.07) + (500 - errors) * math.log(0.91 / 0.93)
    statistic, seen = np.zeros(len(errors)), []
    for at in range(errors.shape[1]):
        statistic = (1 + statistic) * np.exp(ratio[:, at])
        seen.append(np.log(statistic))
    return np.stack(seen, axis=1)


def test_no_rule_finds_a_change_at_an_unknown_time_in_three_chunks():
    """What can be had at all: both rates known, the limit set by simulation to 5 % in 200 chunks."""
    rng = np.random.default_rng(0)
    unchanged = shiryaev_roberts(rng.binomial(500, 0.07, (4000, 200))).max(axis=1)
    limit = np.quantile(unchanged, 0.95)
    errors = np.hstack([rng.binomial(500, 0.07, (2000, 100)), rng.binomial(500, 0.09, (2000, 30))])
    statistic = shiryaev_roberts(errors)
    quiet = statistic[(statistic[:, :100] < limit).all(axis=1)]
    assert np.median(np.argmax(quiet[:, 100:] >= limit, axis=1) + 1) == 5
    ours = [first_alarm(s, [0.07] * 20 + [0.09] * 25, reference_rows=50_000) or 99 for s in range(80)]
    assert 5 < np.median([n - 20 for n in ours if n > 20]) <= 9


def test_fewer_errors_are_no_harm():
    assert not any(history(s, [0.04] * 40).harmful for s in range(20))


def test_wealth_on_counts_is_the_ratio_of_two_integrals():
    reference, errors, rows, factor = error_counts(40, 4), 5, 30, 1.7

    def marginal(a: float, b: float) -> float:
        return quad(lambda q: binom.pmf(errors, rows, q) * beta.pdf(q, a, b), 0, 1)[0]

    by_hand = math.log(marginal(1.7 * 4.5, 36.5) / marginal(4.5, 36.5))
    assert log_wealth_counts(np.array([5.0]), np.array([30.0]), reference, factor)[0] == pytest.approx(
        by_hand
    )


def test_wealth_on_counts_is_one_on_average_where_nothing_changed():
    """Exactly, when reference and chunk share a rate drawn from Jeffreys' prior: the sum over every outcome."""
    reference, rows = error_counts(50, 6), 40
    errors = np.arange(rows + 1.0)
    wealth = np.exp(log_wealth_counts(errors, np.full(rows + 1, 40.0), reference, 1.5))
    chance = quad_vector(lambda q: binom.pmf(errors, rows, q) * beta.pdf(q, 6.5, 44.5))
    assert float(chance @ wealth) == pytest.approx(1, abs=1e-6)
    assert (np.diff(wealth) > 0).all()


def quad_vector(function) -> np.ndarray:
    nodes, weights = np.polynomial.legendre.leggauss(400)
    return sum(w / 2 * function((x + 1) / 2) for x, w in zip(nodes, weights, strict=True))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=40),
    st.floats(0.01, 0.99),
    st.floats(0.001, 0.5),
)
def test_wealth_from_sums_never_exceeds_that_of_the_single_losses(losses, mean, share):
    single = np.array(losses)
    sums = loss_sums(single)
    bound = log_wealth_sums(
        np.array([sums.total]), np.array([sums.squares]), np.array([float(sums.rows)]), mean, share / mean
    )[0]
    assert bound <= np.log1p(share / mean * (single - mean)).sum() + 1e-9


def test_wealth_from_sums_is_close_for_small_bets():
    losses = np.random.default_rng(1).beta(1, 9, 5000)
    sums, bet = loss_sums(losses), 0.5
    bound = log_wealth_sums(np.array([sums.total]), np.array([sums.squares]), np.array([5000.0]), 0.095, bet)[
        0
    ]
    assert bound == pytest.approx(np.log1p(bet * (losses - 0.095)).sum(), abs=1.0)


def brier(rng: np.random.Generator, rows: int, harm: float) -> LossSums:
    p = rng.beta(1, 12, rows)
    return loss_sums((p - (rng.random(rows) < np.minimum(harm * p, 1))) ** 2)


def test_squared_errors_alarm_on_harm_and_not_without():
    found, quiet = 0, 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        reference = brier(rng, 20_000, 1)
        found += bet_on(reference, [brier(rng, 1000, 1.5) for _ in range(10)], REALIZED_ONLY).harmful
        quiet += not bet_on(reference, [brier(rng, 1000, 1) for _ in range(30)], REALIZED_ONLY).harmful
    assert found >= 28
    assert quiet >= 28


def test_the_upper_mean_misses_as_rarely_as_it_says():
    rng = np.random.default_rng(5)
    counts = [upper_mean(error_counts(300, int(rng.binomial(300, 0.07))), 0.1) < 0.07 for _ in range(1500)]
    assert 0.03 < np.mean(counts) <= 0.1 + 3 * math.sqrt(0.09 / 1500)
    single = [upper_mean(loss_sums(rng.beta(1, 9, 300)), 0.1) < 0.1 for _ in range(400)]
    assert np.mean(single) <= 0.1


def test_the_upper_mean_by_hand():
    assert upper_mean(error_counts(10, 0), 0.05) == pytest.approx(1 - 0.05 ** (1 / 10))
    losses = np.array([0.1, 0.2, 0.4] * 1000)
    doubt = math.log(2 / 0.05)
    by_hand = losses.mean() + math.sqrt(2 * losses.var(ddof=1) * doubt / 3000) + 7 * doubt / (3 * 2999)
    assert upper_mean(loss_sums(losses), 0.05) == pytest.approx(by_hand)
    assert upper_mean(error_counts(7, 7), 0.05) == upper_mean(error_counts(1, 0), 0.05) == 1


def test_the_bet_by_hand():
    reference = loss_sums(np.array([0.0, 0.2, 0.1, 0.3]))
    excess = 0.3 * 0.2
    assert bet_size(reference, 0.2, 1.3) == pytest.approx(min(excess / (0.0125 + excess**2), 0.5 / 0.2))
    assert bet_size(reference, 0.01, 1.3) == pytest.approx(0.003 / (0.0125 + 0.003**2))


def test_a_stake_is_its_share_of_the_money_times_the_mean_over_bets():
    reference, policy = error_counts(10_000, 700), HarmAlarms(horizon_chunks=12)
    bet = bet_on(reference, [error_counts(500, 30), error_counts(500, 60)], policy)
    since = {0: (90.0, 1000.0), 1: (60.0, 500.0)}
    for start, share in ((0, 0.75), (1, 0.25 / 11)):
        errors, rows = (np.array([n]) for n in since[start])
        grown = [math.exp(log_wealth_counts(errors, rows, reference, r)[0]) for r in (1.3, 1.7)]
        assert bet.log_stakes[start] == pytest.approx(math.log(share * sum(grown) / 2))
    assert bet.log_e == bet.log_stakes.max()


def test_a_stake_on_losses_is_against_the_bound_that_its_part_of_the_budget_buys():
    losses = np.random.default_rng(1).beta(1, 9, 3000)
    policy = HarmAlarms(
        horizon_chunks=1, budget=0.04, partial_share=0.5, reference_share=0.3, harm_ratios=(1.4,)
    )
    reference, chunk = loss_sums(losses[:2000]), loss_sums(losses[2000:])
    mean = upper_mean(reference, 0.04 * 0.5 * 0.3)
    sums = [np.array([float(x)]) for x in (chunk.total, chunk.squares, chunk.rows)]
    grown = [log_wealth_sums(*sums, mean, bet_size(reference, mean, r))[0] for r in (1.4, np.inf)]
    by_hand = np.logaddexp(*grown) - math.log(2)
    assert bet_on(reference, [chunk], policy).log_e == pytest.approx(by_hand)


def test_the_effect_is_of_the_chunks_since_the_change():
    bet = bet_on(
        error_counts(10_000, 700), [error_counts(500, 20)] * 3 + [error_counts(500, 80)], REALIZED_ONLY
    )
    assert (bet.first_chunk, bet.since_change) == (3, error_counts(500, 80))


@pytest.mark.parametrize("horizon", [1, 2, 12])
def test_a_years_stakes_spend_a_years_budget(horizon):
    policy = HarmAlarms(horizon_chunks=horizon)
    shares = np.exp(start_weights(3 * horizon, policy)).reshape(3, horizon)
    assert shares.sum(axis=1) == pytest.approx(np.ones(3))
    if horizon > 1:
        assert shares[:, 0] == pytest.approx(np.full(3, policy.first_share))


def test_the_limit_is_the_budget_less_what_the_reference_costs():
    counts, squares = error_counts(100, 7), loss_sums(np.full(100, 0.07))
    policy = HarmAlarms(budget=0.04, partial_share=0.25, reference_share=0.5)
    assert LossBet(counts, policy).limit == pytest.approx(math.log(1 / 0.03))
    assert LossBet(squares, policy).limit == pytest.approx(math.log(1 / 0.015))
    assert log_limit(0.0) == math.inf


def test_chunks_one_by_one_or_all_at_once():
    counts = [error_counts(100, e) for e in (7, 3, 0, 30)] + [error_counts(0, 0)]
    one_by_one = LossBet(error_counts(500, 35), REALIZED_ONLY)
    for chunk in counts:
        one_by_one = one_by_one.observe(chunk)
    assert one_by_one == bet_on(error_counts(500, 35), counts, REALIZED_ONLY)
    assert one_by_one.log_e == bet_on(error_counts(500, 35), counts, REALIZED_ONLY).log_e


def test_a_chunk_without_labels_changes_nothing():
    bet = history(1, [0.09] * 5)
    assert bet.observe(error_counts(0, 0)).log_e == bet.log_e


def test_the_order_of_rows_within_a_chunk_does_not_matter():
    losses = np.random.default_rng(2).random(50)
    assert loss_sums(losses).total == pytest.approx(loss_sums(losses[::-1]).total)
    both = loss_sums(losses[:20]) + loss_sums(losses[20:])
    assert (both.rows, both.total, both.squares) == pytest.approx((50, losses.sum(), (losses**2).sum()))


def test_a_corrected_label_is_its_chunk_counted_again():
    reference = error_counts(5000, 350)
    wrong = bet_on(reference, [error_counts(500, 120), error_counts(500, 35)], REALIZED_ONLY)
    right = bet_on(reference, [error_counts(500, 35), error_counts(500, 35)], REALIZED_ONLY)
    assert wrong.harmful
    assert not right.harmful


def test_the_effect_is_a_ratio_of_means():
    bet = bet_on(error_counts(10_000, 700), [error_counts(1000, 105)], REALIZED_ONLY)
    effect = effect_size(bet)
    spread = math.sqrt(0.93 / 700 + 0.895 / 105)
    assert effect.ratio == pytest.approx(1.5)
    assert effect.lower == pytest.approx(1.5 * math.exp(-1.959964 * spread))
    assert effect.upper == pytest.approx(1.5 * math.exp(1.959964 * spread))


def test_no_effect_without_losses_says_why():
    for reference, chunk in (
        (error_counts(10, 1), error_counts(0, 0)),
        (error_counts(10, 0), error_counts(5, 1)),
    ):
        effect = effect_size(bet_on(reference, [chunk], REALIZED_ONLY))
        assert effect.ratio is None
        assert effect.reason


@pytest.mark.parametrize(
    "sums",
    [(-1, 0, 0), (10, 11, 11), (10, 5, 6), (10, 5, 1), (0, 1, 1), (10, math.nan, 1), (10, math.inf, 1)],
)
def test_impossible_sums_are_refused(sums):
    with pytest.raises(ValueError, match="losses between 0 and 1"):
        LossSums(*sums)


@pytest.mark.parametrize("wrong", [[-0.1], [1.1], [math.nan]])
def test_impossible_losses_are_refused(wrong):
    with pytest.raises(ValueError, match="1 of 2 losses"):
        loss_sums(np.array([0.5, *wrong]))


def test_kinds_of_loss_are_not_mixed():
    with pytest.raises(ValueError, match="0–1 losses"):
        LossBet(error_counts(100, 7), REALIZED_ONLY).observe(loss_sums(np.array([0.5])))


def test_before_the_first_chunk_there_is_no_evidence():
    bet = LossBet(error_counts(100, 7), REALIZED_ONLY)
    assert (bet.log_e, bet.first_chunk, bet.harmful) == (-math.inf, None, False)


counts_of = st.integers(0, 3000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(counts_of, st.lists(counts_of, min_size=1, max_size=8), st.integers(1, 4))
def test_any_counts_give_a_number(reference, chunks, horizon):
    policy = HarmAlarms(horizon_chunks=horizon)
    bet = bet_on(error_counts(*reference), [error_counts(*c) for c in chunks], policy)
    assert np.isfinite(bet.log_stakes).all()
    assert effect_size(bet).reason or math.isfinite(effect_size(bet).ratio)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(0, 1), min_size=0, max_size=30),
    st.lists(st.lists(st.floats(0, 1), max_size=10), min_size=1, max_size=4),
)
def test_any_losses_give_a_number(reference, chunks):
    known = loss_sums(np.array([0.5, *reference]))
    bet = bet_on(known, [loss_sums(np.array(c)) for c in chunks], REALIZED_ONLY)
    assert not np.isnan(bet.log_stakes).any()
    assert bet.log_e < math.inf


@pytest.mark.parametrize("error", [0.0, 1e-6])
def test_squared_errors_of_a_champion_that_was_perfect_are_still_judged(error):
    """They look like 0–1 losses: the first chunk with other ones must not stop the check that would find the harm."""
    reference = loss_sums(np.full(5_000, error**2))
    calm = bet_on(reference, [loss_sums(np.full(300, error**2))], HarmAlarms(), counts=False)
    lost = calm.observe(loss_sums(np.full(300, 0.2)))
    assert np.isfinite(calm.log_e) and not calm.harmful
    assert lost.harmful
    if reference.binary:
        with pytest.raises(ValueError, match="0–1 losses"):
            bet_on(reference, lost.seen, HarmAlarms())


def test_a_collapse_is_found_as_surely_as_a_small_harm():
    """Ten times the loss of a good champion: bets made for 1.3 and 1.7 times alone lost money on it."""
    rng = np.random.default_rng(2)
    reference = loss_sums(rng.beta(2, 98, 5_000))
    assert bet_on(reference, [loss_sums(rng.beta(4, 16, 300))], REALIZED_ONLY).harmful
