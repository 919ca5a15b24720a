"""Calendar arithmetic: monitoring chunks and ages. Chunks are half-open, ``[start, end)``, in UTC."""

from datetime import UTC, date, datetime, timedelta

from dateutil.relativedelta import relativedelta

from selfheal_assets.core.spec import ChunkPeriod

IN_THE_END = datetime(9999, 1, 1)  # when every label is known

_LENGTH = {
    "day": relativedelta(days=1),
    "week": relativedelta(weeks=1),
    "month": relativedelta(months=1),
    "quarter": relativedelta(months=3),
}


def in_utc(moment: datetime) -> datetime:
    """``moment`` as naive UTC; one without an offset is UTC already."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def midnight(day: date) -> datetime:
    """The moment at which ``day`` begins."""
    return datetime.combine(day, datetime.min.time())


def add_months(moment: datetime, months: int) -> datetime:
    """``moment`` shifted by calendar months; the day is clipped to the month's length."""
    return moment + relativedelta(months=months)


def chunk_start(moment: datetime, period: ChunkPeriod) -> datetime:
    """Start of the chunk that holds ``moment``. Weeks start on Monday."""
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "week":
        return day - timedelta(days=day.weekday())
    if period == "month":
        return day.replace(day=1)
    if period == "quarter":
        return day.replace(day=1, month=3 * ((day.month - 1) // 3) + 1)
    return day


def chunk_end(start: datetime, period: ChunkPeriod) -> datetime:
    """End (exclusive) of the chunk that begins at ``start``."""
    return start + _LENGTH[period]


def shift_chunks(start: datetime, period: ChunkPeriod, count: int) -> datetime:
    """Start of the chunk ``count`` chunks after (before, if negative) the one that begins at ``start``."""
    return start + _LENGTH[period] * count


def chunk_label(start: datetime, period: ChunkPeriod) -> str:
    """A chunk's name for people: ``2007 Q3``, ``2007-09``, ``2007-09-03``."""
    if period == "quarter":
        return f"{start.year} Q{(start.month - 1) // 3 + 1}"
    return start.strftime("%Y-%m" if period == "month" else "%Y-%m-%d")
