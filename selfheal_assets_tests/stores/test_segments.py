"""Segments: whatever happens to their bytes is noticed, and a writer's death or a full disk costs no whole line."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfheal_assets.stores.log_ingestion import read_segment
from selfheal_assets.stores.prediction_log import PredictionLog, Scorer
from selfheal_assets.stores.segment_writer import Durability, SegmentWriter
from selfheal_assets.stores.segments import DamagedSegment, adopt_abandoned, read_lines, segments
from selfheal_assets_tests.stores.conftest import DAY, members

pytestmark = pytest.mark.integration

MANY = settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
CONTENTS = [b'{"n":%d}' % n for n in range(5)]


def written(folder: Path, contents: list[bytes] = CONTENTS) -> SegmentWriter:
    """A writer that has written these lines to a segment that is still open."""
    writer = SegmentWriter(folder, Durability.os, max_age_s=3600)
    for content in contents:
        writer.append(content)
    return writer


def one_segment(folder: Path, place: str) -> Path:
    (path,) = segments(folder, place)
    return path


@pytest.fixture
def logged(tmp_path: Path, case) -> Path:
    """A sealed segment of the prediction log with three groups."""
    log = PredictionLog(tmp_path / "log")
    for n in range(3):
        log.append(members(2, n), case.feature_names, [0.25, 0.5], Scorer(1, "abc", 0.5), DAY)
    log.close()
    return one_segment(tmp_path / "log", "ready")


# --- Damage -----------------------------------------------------------------------------------


@MANY
@given(data=st.data())
def test_any_flipped_bits_of_a_sealed_segment_are_noticed(logged: Path, case, data: st.DataObject):
    whole = logged.read_bytes()
    flips = data.draw(st.sets(st.integers(0, 8 * len(whole) - 1), min_size=1, max_size=4))
    spoiled = bytearray(whole)
    for flip in flips:
        spoiled[flip // 8] ^= 1 << flip % 8
    logged.write_bytes(spoiled)
    try:
        with pytest.raises(DamagedSegment, match=r"line \d"):
            read_segment(logged, case)
    finally:
        logged.write_bytes(whole)


def test_every_single_flip_and_every_cut_of_a_sealed_segment_is_noticed(tmp_path: Path):
    written(tmp_path).close()
    segment = one_segment(tmp_path, "ready")
    whole = segment.read_bytes()
    for flip in range(8 * len(whole)):
        spoiled = bytearray(whole)
        spoiled[flip // 8] ^= 1 << flip % 8
        segment.write_bytes(spoiled)
        with pytest.raises(DamagedSegment):
            read_lines(segment)
    for kept in range(len(whole)):
        segment.write_bytes(whole[:kept])
        with pytest.raises(DamagedSegment, match="seal"):
            read_lines(segment)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines, lines[0]],
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines[:2], b"\n", *lines[2:]],
        lambda lines: [lines[-1], *lines[:-1]],
    ],
    ids=["after the seal", "lost", "doubled", "sealed twice", "blank", "moved"],
)
def test_lines_added_lost_or_doubled_are_noticed(tmp_path: Path, change):
    written(tmp_path).close()
    segment = one_segment(tmp_path, "ready")
    segment.write_bytes(b"".join(change(segment.read_bytes().splitlines(keepends=True))))
    with pytest.raises(DamagedSegment, match=r"line \d"):
        read_lines(segment)


@pytest.fixture
def open_segment(tmp_path: Path) -> Iterator[Path]:
    """A segment that its writer still holds."""
    writer = written(tmp_path)
    yield one_segment(tmp_path, "open")
    writer.close()


def test_an_open_segment_that_is_cut_gives_the_lines_before_and_reports_the_tail(open_segment: Path):
    whole = open_segment.read_bytes()
    ends = [sum(map(len, whole.splitlines(keepends=True)[:n])) for n in range(len(CONTENTS) + 1)]
    for kept in range(len(whole) + 1):
        open_segment.write_bytes(whole[:kept])
        lines, torn = read_lines(open_segment)
        assert lines == CONTENTS[: len(lines)]
        assert ends[len(lines)] + torn == kept < (ends[len(lines) + 1] if torn else kept + 1)


def test_every_single_flip_of_an_open_segment_is_noticed(open_segment: Path):
    """As damage, or where the very last line break is hit, as a torn tail."""
    whole = open_segment.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for flip in range(8 * len(whole)):
        spoiled = bytearray(whole)
        spoiled[flip // 8] ^= 1 << flip % 8
        open_segment.write_bytes(spoiled)
        if flip // 8 == len(whole) - 1:
            assert read_lines(open_segment) == (CONTENTS[:-1], last)
        else:
            with pytest.raises(DamagedSegment):
                read_lines(open_segment)


# --- Dead writers -----------------------------------------------------------------------------


def abandoned(folder: Path, content: bytes) -> Path:
    (folder / "open").mkdir(parents=True)
    path = folder / "open" / "0001-a.jsonl"
    path.write_bytes(content)
    return path


def lines_of(tmp_path: Path) -> bytes:
    """An open segment's bytes."""
    writer = written(tmp_path / "other")
    content = one_segment(tmp_path / "other", "open").read_bytes()
    writer.close()
    return content


@pytest.mark.parametrize("torn", [b"", b"12", b"0123abcd {"])
def test_an_adopted_segment_is_sealed_with_what_was_torn(tmp_path: Path, torn: bytes):
    abandoned(tmp_path / "log", lines_of(tmp_path) + torn)
    adopt_abandoned(tmp_path / "log")
    assert segments(tmp_path / "log", "open") == []
    assert read_lines(one_segment(tmp_path / "log", "ready")) == (CONTENTS, len(torn))


def test_a_writer_that_died_between_seal_and_rename_is_adopted_as_it_is(tmp_path: Path):
    written(tmp_path).close()
    segment = one_segment(tmp_path, "ready")
    whole = segment.read_bytes()
    os.rename(segment, tmp_path / "open" / segment.name)
    assert read_lines(tmp_path / "open" / segment.name) == (CONTENTS, 0)
    adopt_abandoned(tmp_path)
    assert segment.read_bytes() == whole


def test_a_kill_half_way_through_the_adoption_changes_nothing(tmp_path: Path):
    path = abandoned(tmp_path, lines_of(tmp_path))
    (tmp_path / "ready").mkdir()
    (tmp_path / "ready" / f".{path.name}").write_bytes(b"half")  # killed while it copied
    assert segments(tmp_path, "ready") == []
    kept = path.read_bytes()
    adopt_abandoned(tmp_path)
    path.write_bytes(kept)  # killed before it removed the original
    adopt_abandoned(tmp_path)
    assert read_lines(one_segment(tmp_path, "ready")) == (CONTENTS, 0)
    assert sorted(p.name for p in tmp_path.rglob("*.jsonl") if "other" not in p.parts) == [path.name]


def test_a_segment_that_cannot_be_handed_over_keeps_its_lines(tmp_path: Path):
    (tmp_path / "ready").touch()  # no folder can be made of it
    writer = written(tmp_path)
    writer.close()
    assert read_lines(one_segment(tmp_path, "open"))[0] == CONTENTS
    writer.append(b"next")
    assert len(segments(tmp_path, "open")) == 2
    writer.close()
    (tmp_path / "ready").unlink()
    adopt_abandoned(tmp_path)
    assert [read_lines(p)[0] for p in segments(tmp_path, "ready")] == [CONTENTS, [b"next"]]
