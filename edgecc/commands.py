"""`command/<verb>`: what an operator may ask of a running node, and the answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgecc.errors import CheckpointError, EdgeccError, MessageError
from edgecc.messages import Command, to_json

if TYPE_CHECKING:
    from edgecc.daemon import Daemon

log = logging.getLogger(__name__)
Args = dict[str, Any]


def answer(daemon: Daemon, command: Command) -> None:
    """Run a verb and publish its answer; a retained command is ignored."""
    if command.retain:
        log.warning("retained command %r ignored: clear it on the broker", command.verb)
        return
    body: dict[str, Any] = {"id": command.id, "status": "ok", "code": 0, "error": None}
    try:
        body["data"] = _verb(command.verb)(daemon, dict(command.args))
    except EdgeccError as error:
        body |= {"status": "error", "code": error.exit_code, "error": str(error), "data": None}
    options = {} if command.correlation is None else {"CorrelationData": command.correlation}
    daemon.outbox.send(_response_topic(daemon, command), to_json(body), **options)


def _response_topic(daemon: Daemon, command: Command) -> str:
    """The asker's topic, but only below this node's own prefix."""
    topics = daemon.config.topics
    wanted = command.response_topic
    if wanted and wanted.startswith(f"{topics.root}/response/"):
        return wanted
    return topics / f"response/{command.verb}"


def _verb(name: str) -> Callable[[Daemon, Args], Any]:
    if name not in VERBS:
        raise MessageError(f"unknown verb {name!r}; known: {', '.join(sorted(VERBS))}")
    return VERBS[name]


def _ping(daemon: Daemon, _args: Args) -> Any:
    return {"ts": time.time(), "generation": daemon.serving.number}


def _pause(daemon: Daemon, _args: Args) -> Any:
    """No new growth starts; predictions and labels go on."""
    daemon.paused = True
    return {"paused": True}


def _resume(daemon: Daemon, _args: Args) -> Any:
    daemon.paused = False
    return {"paused": False}


def _checkpoint(daemon: Daemon, _args: Args) -> Any:
    """Save the live readout as a generation and serve that."""
    if daemon.serving.predictor is None:
        raise MessageError("there is nothing to save yet; send a first sample")
    if daemon.serving.successor is not None:
        raise MessageError("a new generation is about to serve; ask again in a moment")
    daemon.serving.catch_up_fully()
    manifest = daemon.serving.save_live()
    _await_turn(daemon, manifest.number)
    return {"generation": manifest.number, "digest": manifest.digest}


def _rollback(daemon: Daemon, args: Args) -> Any:
    number = args.get("generation")
    if type(number) is not int:
        raise MessageError('rollback needs {"args": {"generation": N}}')
    if not daemon.serving.path(number).exists():
        raise MessageError(f"no generation {number}; see `edgecc checkpoint list`")
    manifest = daemon.serving.load(number).manifest
    if manifest.cursor < daemon.store.meta("unlearnt_through", 0):
        raise CheckpointError(f"generation {number} still knows samples that were unlearnt since")
    daemon.orders.abandon()
    _await_turn(daemon, number)
    return {"generation": manifest.number, "digest": manifest.digest}


def _await_turn(daemon: Daemon, number: int) -> None:
    """It serves once its readout knows every label; a restart does not forget it."""
    with daemon.store.transaction():
        daemon.store.set_meta("successor", number)
    daemon.serving.roll_to(number)


VERBS: dict[str, Callable[[Daemon, Args], Any]] = {
    "ping": _ping, "pause": _pause, "resume": _resume, "checkpoint": _checkpoint,
    "rollback": _rollback,
}
