"""Dead letters are kept as long as the installation wants, counted from the day they were set aside."""

import os
import time
from pathlib import Path

from selfheal_assets.stores.dead_letters import DeadLetters, prune

DAY = 86400.0


def test_letters_go_when_their_time_is_over_and_not_before(tmp_path: Path):
    DeadLetters(tmp_path).append([{"reason": "age is below 0"}])
    written = time.time()
    assert prune(tmp_path, 30, written + 29 * DAY) == 0
    assert len(list(tmp_path.iterdir())) == 1
    assert prune(tmp_path, 30, written + 31 * DAY) == 1
    assert list(tmp_path.iterdir()) == []
    assert prune(tmp_path / "nothing was ever refused", 30, written) == 0


def test_a_file_that_was_old_when_it_was_set_aside_is_kept_as_long(tmp_path: Path):
    old = tmp_path / "labels.csv"
    old.write_text("entity_id,label")
    os.utime(old, (0, 0))
    aside = tmp_path / "rejected"
    aside.mkdir()
    old.rename(aside / "labels.csv")
    assert prune(aside, 30, time.time()) == 0
