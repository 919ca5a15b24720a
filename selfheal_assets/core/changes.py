"""What differs between two declarations of one use case, and what that means for work already done.

Only the comparison belongs here; who asks, and what is then said, does not.
"""

from dataclasses import dataclass
from typing import Any

# Read anew at each step, so a change applies from the next step on; what was decided before stays as it was.
_FROM_HERE_ON = ("policy", "training", "serving", "segments", "monitoring.lookback", "monitoring.until")
# Words, and the span of the closing comparison: no figure of any step depends on them.
_SHOWN_ONLY = ("title", "description", "compared", "source.help", "label.outcome", "label.description")


@dataclass(frozen=True)
class Change:
    """One key's value before and after; ``None`` where the key was not there."""

    key: str
    before: Any
    after: Any

    @property
    def is_shown_only(self) -> bool:
        """Whether it changes words or the comparison alone."""
        words = self.key.startswith("features.") and self.key.endswith((".description", ".reason"))
        return words or _is_in(self.key, _SHOWN_ONLY)

    @property
    def applies_from_here_on(self) -> bool:
        """Whether work already done stands beside it, as it was done under the old value."""
        return self.is_shown_only or _is_in(self.key, _FROM_HERE_ON)

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.before)} → {_shown(self.after)}"


def changes(before: Any, after: Any, key: str = "") -> list[Change]:
    """The innermost keys in which two JSON-like values differ; entries with a ``name`` go by it in lists."""
    before, after = _named(before), _named(after)
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for name in [*before, *(n for n in after if n not in before)]:
            inner = f"{key}.{name}" if key else str(name)
            found += changes(before.get(name), after.get(name), inner)
        if not found and list(before) != list(after) and key == "features":
            return [Change(key, list(before), list(after))]
        return found
    return [] if before == after else [Change(key, before, after)]


def _named(value: Any) -> Any:
    """A list of named entries as a mapping by name."""
    if isinstance(value, list) and value and all(isinstance(v, dict) and "name" in v for v in value):
        return {v["name"]: v for v in value}
    return value


def _is_in(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == s or key.startswith(f"{s}.") for s in sections)


def _shown(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
