"""Requests to unlearn: what was asked, how far each one is, and its answer, as rows of the log.

The only place where they turn into JSON and back.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from edgecc.protocol.messages import Command
from edgecc.protocol.selection import Selection, asker, parse
from edgecc.store.queries import Queries

Phase = Literal["asked", "flagged", "erased", "scrubbed", "rolling", "done"]


@dataclass(frozen=True)
class Traces:
    """Where the samples of a request left traces, and what the steps to come do about them."""

    first: int | None = None  # first label that any of them had
    mark: int = 0  # newest label, once theirs were retracted
    scaled: int | None = None  # least number of windows, with one of them, that the scale is from
    deep: bool = False
    learnt: bool = False  # some had left the log, and readouts cannot subtract them
    rewrite: bool = False  # copies may be left in the file until it is rewritten
    base: int | None = None  # deep: the generation that is served instead
    removed: tuple[int, ...] = ()  # deep: the generations that are deleted


@dataclass(frozen=True)
class Uses:
    """Numbers of generations by what they used the samples for."""

    trained: list[int] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)
    readout: list[int] = field(default_factory=list)
    scaled: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Regrown:
    """What a deep request has deleted, and what grows again."""

    base: int | None  # generation that serves
    removed: tuple[int, ...]
    growths_again: list[int]


@dataclass(frozen=True)
class Answer:
    """What became of the samples of a request."""

    samples: int = 0
    labelled: int = 0
    held_out: int = 0
    pending: int = 0  # labels that waited for their sample
    already: int = 0  # unlearnt before
    unknown: list[str] = field(default_factory=list)  # ids that the log does not know
    evicted: int = 0  # learnt, and no longer here to be subtracted
    evicted_ids: list[str] = field(default_factory=list)  # or their hashes
    quarantined: int = 0
    generations: Uses = field(default_factory=Uses)
    serving: int = -1  # generation
    growths_restarted: list[int] = field(default_factory=list)
    copies_possible: bool = False
    not_relearnt: int = 0  # other samples that had left the log, which the readout is without
    regrown: Regrown | None = None

    def to_json(self) -> dict[str, Any]:
        """As published: what a deep request did stands beside the rest."""
        body = asdict(self)
        return body | (body.pop("regrown") or {})

    @staticmethod
    def from_json(body: Mapping[str, Any]) -> "Answer":
        regrown = _known(Regrown, body) if "base" in body else None
        uses = dict(body.get("generations", {}))
        if "judged" in uses:  # before 0.2
            uses["evaluated"] = uses.pop("judged")
        return _known(Answer, dict(body) | {"generations": Uses(**uses), "regrown": regrown})


@dataclass(frozen=True)
class Request:
    number: int
    chosen: Selection
    asker: Command | None  # None where a producer asked, by a label of its own
    phase: Phase
    traces: Traces = Traces()
    answer: Answer = Answer()


class Requests(Queries):
    """The table `unlearning`; everything that writes does so inside a transaction."""

    _none = False  # once committed, there was no request; asked several times a turn

    def ask(self, identity: str | None, asked: Mapping[str, Any]) -> None:
        """Note a request as `selection.asked_by` gives it; one with a known id changes nothing."""
        self._none = False
        self._db.execute(
            "INSERT OR IGNORE INTO unlearning (id, asked, phase, plan, answer, ts) "
            "VALUES (?,?,'asked','{}','{}',?)", (identity or None, json.dumps(asked), time.time()))

    @property
    def busy(self) -> bool:
        """True while a request is under way."""
        return self.current() is not None

    def current(self) -> Request | None:
        """The oldest request that is not done."""
        if self._none:
            return None
        row = self._db.execute(
            "SELECT number, asked, phase, plan, answer FROM unlearning WHERE phase != 'done' "
            "ORDER BY number LIMIT 1").fetchone()
        if row is None:
            self._none = not self._db.in_transaction
            return None
        number, asked, phase, traces, answer = row
        asked = json.loads(asked)
        return Request(
            number, parse(asked["args"]), asker(asked["reply"]) if "reply" in asked else None,
            phase, _known(Traces, json.loads(traces)), Answer.from_json(json.loads(answer)))

    def answer_to(self, identity: str) -> Answer | None:
        """What was answered to this request, if it is done."""
        body = self._value("SELECT answer FROM unlearning WHERE id=? AND phase='done'", identity)
        return None if body is None else Answer.from_json(json.loads(body))

    def advance(self, request: Request) -> None:
        """Write down how far `request` is."""
        self._db.execute(
            "UPDATE unlearning SET phase=?, plan=?, answer=? WHERE number=?",
            (request.phase, json.dumps(asdict(request.traces)),
             json.dumps(request.answer.to_json()), request.number))

    def finish(self, request: Request) -> None:
        """Keep nothing of `request` but its answer."""
        self._db.execute(
            "UPDATE unlearning SET phase='done', asked='{}', plan='{}', answer=? WHERE number=?",
            (json.dumps(request.answer.to_json()), request.number))
        self._db.execute("UPDATE gone SET unlearnt=0 WHERE unlearnt=?", (request.number,))


Kind = TypeVar("Kind", Traces, Answer, Regrown)


def _known(kind: type[Kind], body: Mapping[str, Any]) -> Kind:
    """A value of what is written down; what is missing has its default."""
    names = {one.name for one in fields(kind)}
    given = {name: value for name, value in body.items() if name in names}
    if given.get("removed") is not None:
        given["removed"] = tuple(given["removed"])
    return kind(**given)
