"""The log's single values: every key, the type of its value, and the value before it is written."""

from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value", bound=str | int | None)


@dataclass(frozen=True)
class Key(Generic[Value]):
    name: str
    default: Value


# generations
SERVING = Key[int | None]("serving", None)  # number of the one that serves
SUCCESSOR = Key[int | None]("successor", None)  # number of the one that serves next
REMOVED_THROUGH = Key[int]("removed_through", -1)  # newest number ever removed: none is used twice
STEM = Key[str | None]("stem", None)  # the stem that was configured at the last start

# labels
RENUMBERED = Key[int]("renumbered", 0)  # how often labels were renumbered, by `unlearn --deep`
SNAPSHOT = Key[int]("snapshot", 0)  # newest label that the saved live readout knows
MOVED = Key[int]("moved", 0)  # 1 once rows were moved within the file, and may have left copies

# what components keep of themselves, as JSON
INPUT = Key[str | None]("input", None)  # [kind, shape] of every sample
FILTERS = Key[str]("filters", "[]")  # that the broker's session has
STEPS_DOWN = Key[str]("steps_down", "{}")  # steps down after deaths of memory, by plan
SOURCES = Key[str | None]("sources", None)  # how far each source is trusted
DRIFT = Key[str | None]("drift", None)  # the window of the drift detector
QUOTAS = Key[str | None]("quotas", None)  # what each source may still send


def scaled_on(count: int) -> Key[int]:
    """Last row of the first `count` sensor windows, when the input's scale was measured on them."""
    return Key(f"scaled_on_{count}", count)


def made(digest: str) -> Key[int | None]:
    """How often labels had been renumbered when the generation with this digest was made."""
    return Key(f"made {digest}", None)
