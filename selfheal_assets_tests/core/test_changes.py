"""Which keys of a use case changed, and whether work already done may stand beside the change."""

import pytest

from selfheal_assets.core.changes import changes

BEFORE = {
    "title": "Old",
    "source": {"paths": ["a.csv"], "help": ""},
    "features": [{"name": "age", "max": 9, "reason": ""}, {"name": "plan", "max": None, "reason": ""}],
    "segments": [],
    "monitoring": {"chunk": "month", "lookback": 8},
    "policy": {"gates": {"min_rows": 200}},
}


def changed(**after):
    return changes(BEFORE, BEFORE | after)


@pytest.mark.parametrize(
    ("after", "said", "shown_only", "from_here_on"),
    [
        ({"title": "New"}, "title: Old → New", True, True),
        ({"policy": {"gates": {"min_rows": 300}}}, "policy.gates.min_rows: 200 → 300", False, True),
        ({"monitoring": {"chunk": "month", "lookback": 4}}, "monitoring.lookback: 8 → 4", False, True),
        ({"monitoring": {"chunk": "week", "lookback": 8}}, "monitoring.chunk: month → week", False, False),
        ({"source": {"paths": ["b.csv"], "help": ""}}, "source.paths: ['a.csv'] → ['b.csv']", False, False),
        ({"source": {"paths": ["a.csv"], "help": "ask"}}, "source.help:  → ask", True, True),
        (
            {"features": [{"name": "age", "max": 8, "reason": ""}, BEFORE["features"][1]]},
            "features.age.max: 9 → 8",
            False,
            False,
        ),
        (
            {"features": [{"name": "age", "max": 9, "reason": "old"}, BEFORE["features"][1]]},
            "features.age.reason:  → old",
            True,
            True,
        ),
        ({"features": BEFORE["features"][::-1]}, "features: ['age', 'plan'] → ['plan', 'age']", False, False),
        ({"compared": {"start": "2020-01-01"}}, "compared: not given → {'start': '2020-01-01'}", True, True),
    ],
)
def test_a_change_names_its_key_and_says_what_it_touches(after, said, shown_only, from_here_on):
    (only,) = changed(**after)
    assert str(only) == said
    assert (only.is_shown_only, only.applies_from_here_on) == (shown_only, from_here_on)


def test_a_feature_that_is_gone_and_no_change_at_all():
    (gone,) = changed(features=BEFORE["features"][:1])
    assert (gone.key, gone.after, gone.applies_from_here_on) == ("features.plan", None, False)
    assert changed() == []
