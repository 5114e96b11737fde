"""`command/<verb>`: what an operator may ask of a running node, and the answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgecc.config.reload import AT_RUN_TIME, differences, taken_over
from edgecc.daemon.trial import Wanted
from edgecc.errors import EdgeccError, MessageError
from edgecc.mqtt.reply import refuse, reply
from edgecc.protocol.messages import Command
from edgecc.protocol.topics import check_source

if TYPE_CHECKING:
    from edgecc.daemon.daemon import Daemon

log = logging.getLogger(__name__)
Args = dict[str, Any]
_RETRIED_AT_ONCE = 32  # messages out of quarantine, so that no turn takes long


def answer(daemon: Daemon, command: Command) -> None:
    """Run a verb and publish its answer, now or when it is done; a retained command is ignored."""
    if command.retain:
        log.warning("retained command %r ignored: clear it on the broker", command.verb)
        return
    outbox, topics = daemon.outbox, daemon.config.topics
    try:
        if command.verb in LATER:
            found = LATER[command.verb](daemon, command)
        else:
            found = _verb(command.verb)(daemon, dict(command.args))
        if found is not None:
            reply(outbox, topics, command, found)
    except EdgeccError as error:
        refuse(outbox, topics, command, error)


def _verb(name: str) -> Callable[[Daemon, Args], Any]:
    if name not in VERBS:
        known = ", ".join(sorted([*VERBS, *LATER]))
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
    daemon.trial.check_free()
    if daemon.serving.predictor is None:
        raise MessageError("there is nothing to save yet; send a first sample")
    daemon.serving.catch_up_fully()
    manifest = daemon.serving.save_live()
    with daemon.store.transaction():
        daemon.serving.set_next(manifest.number)
    daemon.serving.roll_to(manifest.number)  # over a restart as well
    return {"generation": manifest.number, "digest": manifest.digest}


def _rollback(daemon: Daemon, command: Command) -> None:
    """Serve an earlier generation again, if it is not worse or by force."""
    number = command.args.get("generation")
    if type(number) is not int:
        raise MessageError('rollback needs {"args": {"generation": N}}')
    daemon.trial.check_free()
    if not daemon.serving.path(number).exists():
        raise MessageError(f"no generation {number}; see `edgecc checkpoint list`")
    candidate = daemon.serving.ready(number)
    manifest = candidate.generation.manifest
    daemon.trial.begin(Wanted(
        command, candidate, lambda: manifest,
        {"generation": number, "digest": manifest.digest}))


def _push(daemon: Daemon, command: Command) -> Any:
    return daemon.pushing.answer(command)


def _unlearn(daemon: Daemon, command: Command) -> Any:
    return daemon.forgetting.answer(command)


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
    daemon.trial.check_free()
    fresh = daemon.reread()
    changed = differences(daemon.given, fresh)
    taken = [key for key in changed if key in AT_RUN_TIME]
    daemon.given = taken_over(daemon.given, fresh, taken)
    daemon.config = taken_over(daemon.config, fresh, taken)
    if taken:
        daemon.snapshot()
        daemon.revive()
    return {"taken_up": taken, "needs_restart": [key for key in changed if key not in taken]}


VERBS: dict[str, Callable[[Daemon, Args], Any]] = {
    "ping": _ping, "pause": _pause, "resume": _resume, "checkpoint": _checkpoint,
    "sources": _sources, "trust": _trust, "retry": _retry, "reload": _reload,
}
LATER: dict[str, Callable[[Daemon, Command], Any]] = {  # answered when it is done, where None
    "push": _push, "rollback": _rollback, "unlearn": _unlearn,
}
