"""How a node is doing: the retained message `health`, as a value."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgecc.protocol.messages import to_json

Reason = Literal["heat", "throttling", "quiet-hours"]


@dataclass(frozen=True)
class Pause:
    """Why blocks do not train now."""

    reason: Reason
    text: str
    since: float  # seconds since 1970


@dataclass(frozen=True)
class Dropped:
    """Messages that the node had to give up."""

    predictions: int  # and answers and chunks, the oldest first
    qos0: int  # they came faster than they were taken
    too_large: int  # for the broker


@dataclass(frozen=True)
class MemoryUse:
    """Bytes."""

    budget: int
    plan: int  # what the plan is made for
    steps_down: int  # how many smaller plans were taken since memory ran out
    peak: int  # of daemon and learner together, at most
    daemon_peak: int
    learner_peak: int
    daemon: int  # resident now


@dataclass(frozen=True)
class Health:
    ts: float  # seconds since 1970
    generation: int  # that serves; -1: none
    readout: int  # newest label that the live readout knows
    lag: int  # labels that it does not know yet
    classes: list[str]
    log: Mapping[str, int]  # rows and bytes of each kind
    acked: int  # samples acknowledged since the start
    taken: Mapping[str, int]  # messages since the start, by what became of them
    refused: Mapping[str, int]  # messages over their rate, by source
    distrusted: list[str]  # sources
    prequential: Mapping[str, float | int]
    held_out: Mapping[str, float]  # accuracy of what serves by what was held out of its readout
    growths_open: int
    swapping: bool  # another generation is about to serve
    unlearning: bool
    paused: bool  # by an operator: no growth starts
    training_paused: Pause | None  # a growth is due, and may not train
    connections: int  # since the start
    canary: str  # waiting, returned or lost
    denied: bool  # the broker refuses something that must arrive
    dropped: Dropped
    storage_full_since: float | None  # seconds since 1970
    memory: MemoryUse
    temperature: float | None  # degrees Celsius
    throttled: str | None
    energy: Mapping[str, Any] | None

    def to_json(self) -> bytes:
        return to_json(asdict(self))
