"""Small made-up frames in the shape of the reports' contracts, and a reader of what a page would load."""

from collections.abc import Callable
from datetime import datetime
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from selfheal_assets.reports.drift import DriftPage

CHUNKS = [datetime(year, month, 1) for year in (2006, 2007, 2008) for month in (1, 4, 7, 10)]
LABELS = [f"{start.year} Q{start.month // 3 + 1}" for start in CHUNKS]


class Page(HTMLParser):
    """What a browser would see: elements by tag, what they load, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._skip = "", False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._skip = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skip = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._skip else " ".join(data.split()) + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def loads(self) -> list[str]:
        """Addresses of everything the page fetches by itself or links to, but for places in the page."""
        named = [
            attrs.get(key) for _, attrs in self.tags for key in ("src", "href", "action", "poster", "data")
        ]
        return [address for address in named if address and not address.startswith(("#", "data:"))]


def features(rows: int, shift: float) -> pl.DataFrame:
    rng = np.random.default_rng(int(shift * 10) + 1)
    return pl.DataFrame(
        {
            "amount": np.exp(rng.normal(10 + shift, 1, rows)).round(),
            "employees": rng.poisson(3 + 4 * shift, rows),
            "score": rng.normal(600, 40, rows),
            "area": rng.choice(["urban", "rural"], rows, p=[0.5 + 0.3 * shift, 0.5 - 0.3 * shift]),
        }
    )


def univariate(names: tuple[str, ...] = ("amount", "employees", "area", "score")) -> pl.DataFrame:
    values = [0.31, 0.18, None, 0.04][: len(names)]
    return pl.DataFrame(
        {
            "feature": names,
            "method": "jensen_shannon",
            "value": values,
            "threshold": 0.1,
            "alert": [None if value is None else value > 0.1 for value in values],
            "reason": ["all values are missing" if value is None else None for value in values],
        }
    )


FINDINGS = pl.DataFrame(
    [
        ("drift_within_limits", "FAIL", 2.0, 1.0, "2 of 3 features moved"),
        ("calibration_holds", "PASS", 0.97, 0.8, "expected/observed 0.97"),
        ("realized_performance_holds", "INSUFFICIENT_DATA", None, 0.64, "3 positives, 10 needed"),
    ],
    schema=["check", "status", "statistic", "limit", "reason"],
    orient="row",
)
ESTIMATES = pl.DataFrame(
    {
        "metric": ["roc_auc", "f1"],
        "value": [0.703, 0.19],
        "lower": [0.67, 0.17],
        "upper": [0.735, 0.21],
        "threshold_lower": [0.66, 0.22],
        "threshold_upper": [0.76, None],
        "alert": [False, True],
        "reason": [None, None],
    }
)
COHORTS = pl.DataFrame(
    {
        "cohort": CHUNKS[:3],
        "rows": [1800, 1700, 1600],
        "mean_age_days": [300.0, 200.0, 90.0],
        "share_known": [0.3, 0.2, 0.05],
        "expected": [40.0, 20.0, 5.0],
        "observed": [60, 31, 7],
    }
)
REALIZED = pl.DataFrame(
    {
        "cohort": CHUNKS[:2] * 2,
        "metric": ["roc_auc", "roc_auc", "brier", "brier"],
        "value": [0.681, 0.672, 0.09, None],
        "lower": [0.64, 0.63, None, None],
        "upper": [0.72, 0.71, None, None],
        "rows": [1500, 1400, 1500, 1400],
        "positives": [90, 80, 90, 80],
        "status": ["PASS", "PASS", "PASS", "INSUFFICIENT_DATA"],
        "reason": [None, None, None, "3 positives, 10 needed"],
    }
)
MULTIVARIATE = pl.DataFrame(
    {
        "method": ["pca_reconstruction"],
        "value": [1.37],
        "lower_threshold": [1.1],
        "upper_threshold": [1.31],
        "alert": [True],
    }
)


@pytest.fixture
def drift_report() -> Callable[..., DriftPage]:
    """Builds a chunk's page from made-up frames; any of its fields can be replaced."""

    def build(**changed) -> DriftPage:
        fields = {
            "title": "Loans",
            "chunk_label": "2007 Q3",
            "champion": 3,
            "findings": FINDINGS,
            "univariate": univariate(),
            "multivariate": MULTIVARIATE,
            "estimates": ESTIMATES,
            "cohort_evidence": COHORTS,
            "realized": REALIZED,
            "reference_features": features(2000, 0.0),
            "analysis_features": features(1000, 1.0),
        }
        return DriftPage(**(fields | changed))

    return build


@pytest.fixture
def chunks() -> pl.DataFrame:
    size = len(CHUNKS)
    return pl.DataFrame(
        {
            "chunk": CHUNKS,
            "label": LABELS,
            "rows": [1000 + i for i in range(size)],
            "labels_known": [10 * i for i in range(size)],
            "estimated_auc": [None if i in (4, 5) else 0.70 for i in range(size)],
            "estimated_lower": [None if i in (4, 5) else 0.67 for i in range(size)],
            "estimated_upper": [None if i in (4, 5) else 0.73 for i in range(size)],
            "realized_auc": [0.69] * (size - 2) + [None, None],
            "realized_lower": [0.66] * (size - 2) + [None, None],
            "realized_upper": [0.72] * (size - 2) + [None, None],
            "never_retrained_auc": [0.64] * (size - 2) + [None, None],
            "expected": [101.0] * size,
            "observed": [123.0] * size,
            "never_retrained_expected": [47.0] * size,
            "partial_ratio": [None] * 3 + [0.6] * (size - 3),
            "partial_lower": [None] * 3 + [0.5] * (size - 3),
            "partial_upper": [None] * 3 + [0.7] * (size - 3),
            "realized_ratio": [101 / 123] * size,
            "ratio_lower": [0.69] * size,
            "ratio_upper": [0.99] * size,
            "failed_checks": [
                "",
                "calibration_holds, drift_within_limits",
                "drift_within_limits",
                *[""] * (size - 3),
            ],
            "decision": [None, "PROMOTE", "REJECT", *[""] * (size - 3)],
            "reason": [None, "improvement: F1 +6.4 %", "calibration: Brier +0.013", *[None] * (size - 3)],
            "champion": [1, 1, *[2] * (size - 2)],
        }
    )


@pytest.fixture
def decisions() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [1, 2, 3],
            "as_of": [datetime(2005, 12, 31), CHUNKS[2], CHUNKS[3]],
            "action": ["PROMOTE", "PROMOTE", "REJECT"],
            "champion": [None, 1, 2],
            "challenger": [1, 2, 3],
            "reason": [
                "first champion",
                "improvement: F1 +6.4 %",
                "calibration: Brier +0.013; cooldown: 3 of 7 days",
            ],
        }
    )


GATES = [
    {"gate": "improvement", "verdict": "PASS", "reason": "F1 +6.4 %", "value": 6.4, "limit": 2.0,
     "evidence": {"lower": 0.0123, "upper": 0.0456, "rows": 4321, "positives": 87, "power": 0.91}},
    {"gate": "calibration", "verdict": "FAIL", "reason": "Brier +0.013", "value": 0.0131, "limit": 0.01,
     "evidence": {"rows": 4321}},
]  # fmt: skip


@pytest.fixture
def evidence() -> dict[int, dict]:
    """What the ledger keeps of decision 3."""
    window = {"start": "2005-01-01 00:00:00", "end": "2006-01-01 00:00:00", "as_of": "2006-10-01 00:00:00"}
    return {3: {"evidence": {"gates": GATES, "window": window}, "fingerprints": {"challenger": "86f4df97"}}}


@pytest.fixture
def summary() -> dict:
    return {
        "auc_healed": 0.7123,
        "auc_never_retrained": 0.6611,
        "expected_over_observed_healed": 0.81,
        "expected_over_observed_never_retrained": 0.39,
        "promotions": 4,
        "refusals": 6,
        "seconds": 143.2,
        "period": "2006–2010",
    }
