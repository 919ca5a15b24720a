"""What a comparison could have shown, and how much more evidence would."""

from math import isfinite

from scipy.stats import norm

from selfheal_assets.core.evaluation import Comparison
from selfheal_assets.core.policies import GatePolicy


def power_and_need(seen: Comparison, wanted: float, policy: GatePolicy) -> tuple[float | None, float | None]:
    """Chance that the wanted gain, if true, is proved on such rows; and how many times as many prove it.

    ``wanted`` > 0 is in the metric's unit. Proved: its one-sided bound is beyond 0, with chance ``min_power``. The
    bounds are taken as normal: with standard error e the chance is Phi(wanted / e - z(confidence)), and e falls with
    the root of the rows.
    """
    z = float(norm.ppf(policy.confidence))
    error = (seen.upper - seen.lower) / (2 * z)
    if not (isfinite(error) and isfinite(wanted) and error > 0 and wanted > 0):
        return None, None
    needed = ((z + float(norm.ppf(policy.min_power))) * error / wanted) ** 2
    return float(norm.cdf(wanted / error - z)), needed
