"""The sensor that tells people: it runs by itself, starts nothing, and says in its tick what it did."""

import dagster as dg

from selfheal_assets.defs.notify import build_notify_sensor
from selfheal_assets.defs.resources import Stores
from selfheal_assets.settings import Settings
from selfheal_assets_tests.stores.test_notifications import publish


def tick(settings: Settings) -> dg.SkipReason:
    sensor = build_notify_sensor(["team:ml-platform"])
    answer = sensor(stores=Stores(settings))
    assert isinstance(answer, dg.SkipReason)
    return answer


def test_without_a_channel_the_tick_says_how_to_name_one(tmp_path):
    assert "SELFHEAL_NOTIFY_WEBHOOK" in str(tick(Settings(home=tmp_path)).skip_message)


def test_a_receiver_that_is_away_fails_no_tick(tmp_path):
    settings = Settings(home=tmp_path, notify_webhook="http://127.0.0.1:9")
    publish(settings, 1, ["PASS"])
    assert tick(settings).skip_message == "nothing new since the last round"
    publish(settings, 2, ["PASS"])
    assert str(tick(settings).skip_message).startswith("1 waiting; webhook: ConnectError")


def test_it_runs_without_being_switched_on():
    assert build_notify_sensor(["team:ml-platform"]).default_status is dg.DefaultSensorStatus.RUNNING
