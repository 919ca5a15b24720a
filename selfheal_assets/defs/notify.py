"""Tell people: a sensor that sends what is new, and sends again what nobody took."""

import dagster as dg

from selfheal_assets.defs.catalogue import explained
from selfheal_assets.defs.resources import StoresParam
from selfheal_assets.stores.notifications import tell


def build_notify_sensor(owners: list[str]) -> dg.SensorDefinition:
    """Tells of decisions and alarms, on the channels that SELFHEAL_NOTIFY_* name; sleeps where there is none."""

    @dg.sensor(
        name="tell_people",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=explained(
            "Sends decisions and alarms to the webhook, Slack or e-mail that SELFHEAL_NOTIFY_* name, and again what "
            "could not be delivered. It starts no run, so a receiver that is away keeps nothing waiting.",
            "nobody is told meanwhile; what is new is kept in `RUN/outbox` and sent later",
            "read the tick's error, mend the channel or the disk, and switch the sensor on again",
        ),
        owners=owners,
    )
    def tell_people(stores: StoresParam):
        return dg.SkipReason(tell(stores.settings))

    return tell_people
