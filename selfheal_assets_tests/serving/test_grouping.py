"""Groups: what waits is handled together, as far as its weight allows, and everybody is told the own outcome."""

import asyncio
import threading

import pytest

from selfheal_assets.serving.grouping import Grouped


def test_what_waits_is_one_group_up_to_its_weight_and_what_is_heavier_goes_alone():
    groups: list[list[int]] = []
    busy, release = threading.Event(), threading.Event()

    def handle(items: list[int]) -> list[str | Exception]:
        groups.append(items)
        busy.set()
        assert release.wait(10)
        return [ValueError(str(i)) if i == 2 else f"did {i}" for i in items]

    async def ask() -> list[str | BaseException]:
        grouped: Grouped[int, str] = Grouped("test", handle, most=5, weight=lambda item: item)
        grouped.start(asyncio.get_running_loop())
        first = asyncio.create_task(grouped.done(1))
        await asyncio.to_thread(busy.wait, 10)
        others = [asyncio.create_task(grouped.done(item)) for item in (3, 2, 4, 9, 1)]
        await asyncio.sleep(0)
        assert grouped.waiting == 5
        release.set()
        outcomes = await asyncio.gather(first, *others, return_exceptions=True)
        await asyncio.to_thread(grouped.stop)
        return outcomes

    outcomes = asyncio.run(ask())
    assert groups == [[1], [3, 2], [4], [9], [1]]
    assert [str(o) for o in outcomes] == ["did 1", "did 3", "2", "did 4", "did 9", "did 1"]
    assert isinstance(outcomes[2], ValueError)


def test_a_failure_is_told_to_the_whole_group_and_the_next_is_handled():
    def handle(items: list[int]) -> list[int]:
        if items == [0]:
            raise OSError("no space")
        return items

    async def ask() -> int:
        grouped: Grouped[int, int] = Grouped("test", handle)
        grouped.start(asyncio.get_running_loop())
        with pytest.raises(OSError, match="no space"):
            await grouped.done(0)
        answer = await grouped.done(7)
        await asyncio.to_thread(grouped.stop)
        return answer

    assert asyncio.run(ask()) == 7


def test_what_waits_is_still_done_when_it_is_told_to_stop():
    async def ask() -> list[int]:
        grouped: Grouped[int, int] = Grouped("test", lambda items: items)
        tasks = []
        grouped.start(asyncio.get_running_loop())
        for item in range(100):
            tasks.append(asyncio.create_task(grouped.done(item)))
        await asyncio.sleep(0)
        await asyncio.to_thread(grouped.stop)
        return await asyncio.gather(*tasks)

    assert asyncio.run(ask()) == list(range(100))
