"""`command/<verb>`: what an operator may ask of a running node, and the answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgecc.errors import EdgeccError, MessageError
from edgecc.messages import Command
from edgecc.reloading import AT_RUN_TIME, differences, taken_over
from edgecc.reply import refuse, reply
from edgecc.topics import check_source

if TYPE_CHECKING:
    from edgecc.daemon import Daemon

log = logging.getLogger(__name__)
Args = dict[str, Any]
_RETRIED_AT_ONCE = 32  # messages out of quarantine, so that no turn takes long


def answer(daemon: Daemon, command: Command) -> None:
    """Run a verb and publish its answer; a retained command is ignored."""
    if command.retain:
        log.warning("retained command %r ignored: clear it on the broker", command.verb)
        return
    outbox, topics = daemon.outbox, daemon.config.topics
    try:
        if command.verb == "unlearn":
            found = daemon.forgetting.answer(command)
            if found is None:
                return  # it is answered when it is done
        else:
            found = _verb(command.verb)(daemon, dict(command.args))
        reply(outbox, topics, command, found)
    except EdgeccError as error:
        refuse(outbox, topics, command, error)


def _verb(name: str) -> Callable[[Daemon, Args], Any]:
    if name not in VERBS:
        known = ", ".join(sorted([*VERBS, "unlearn"]))
        raise MessageError(f"unknown verb {name!r}; known: {known}")
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
    _wait_for_unlearning(daemon)
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
    _wait_for_unlearning(daemon)
    if not daemon.serving.path(number).exists():
        raise MessageError(f"no generation {number}; see `edgecc checkpoint list`")
    manifest = daemon.serving.load(number).manifest
    daemon.orders.abandon(manifest.growth)
    _await_turn(daemon, number)
    return {"generation": manifest.number, "digest": manifest.digest}


def _wait_for_unlearning(daemon: Daemon) -> None:
    if daemon.forgetting.busy:
        raise MessageError("samples are being unlearnt; ask again in a moment")


def _sources(daemon: Daemon, _args: Args) -> Any:
    return daemon.watch.report()


def _trust(daemon: Daemon, args: Args) -> Any:
    """Labels of a source count, or do not, whatever the statistics say."""
    source, trusted = args.get("source"), args.get("trusted", True)
    if not isinstance(source, str) or not isinstance(trusted, bool):
        raise MessageError('trust needs {"args": {"source": NAME, "trusted": true or false}}')
    check_source(source)
    _wait_for_unlearning(daemon)
    daemon.watch.decide(source, trusted=trusted)
    return [one for one in daemon.watch.report() if one["source"] == source]


def _retry(daemon: Daemon, args: Args) -> Any:
    """Samples and labels in quarantine go through ingestion again, some at a time.

    Beyond number `after`, or the one number `seq`; the answer's last number is the next `after`.
    """
    after, seq = args.get("after", 0), args.get("seq")
    if type(after) is not int or not (seq is None or type(seq) is int):
        raise MessageError('retry needs {"args": {"seq": N}} or {"args": {"after": N}}')
    kept = daemon.store.quarantined_after(
        after if seq is None else seq - 1, _RETRIED_AT_ONCE if seq is None else 1,
        daemon.config.topics / "in/")
    if seq is not None and [one[0] for one in kept] != [seq]:
        raise MessageError(f"no sample or label number {seq} in quarantine; see "
                           "`edgecc samples quarantine`")
    return daemon.ingest.retry(kept)


def _reload(daemon: Daemon, _args: Args) -> Any:
    """Take up from the configuration what can change at run time; name what needs a restart."""
    _wait_for_unlearning(daemon)
    fresh = daemon.reread()
    changed = differences(daemon.given, fresh)
    taken = [key for key in changed if key in AT_RUN_TIME]
    daemon.given = taken_over(daemon.given, fresh, taken)
    daemon.config = taken_over(daemon.config, fresh, taken)
    if taken:
        daemon.snapshot()
        daemon.revive()
    return {"taken_up": taken, "needs_restart": [key for key in changed if key not in taken]}


def _await_turn(daemon: Daemon, number: int) -> None:
    """It serves once its readout knows every label; a restart does not forget it."""
    with daemon.store.transaction():
        daemon.store.set_meta("successor", number)
    daemon.serving.roll_to(number)


VERBS: dict[str, Callable[[Daemon, Args], Any]] = {
    "ping": _ping, "pause": _pause, "resume": _resume, "checkpoint": _checkpoint,
    "rollback": _rollback, "sources": _sources, "trust": _trust,
    "retry": _retry, "reload": _reload,
}
