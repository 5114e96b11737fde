"""`command/<verb>`: what an operator may ask of a running node, and the answer."""

import logging
import time
from collections.abc import Callable
from typing import Any

from edgecc.daemon.parts import Parts
from edgecc.daemon.trial import Wanted
from edgecc.errors import EdgeccError, MessageError
from edgecc.protocol.messages import Command
from edgecc.protocol.topics import check_source

log = logging.getLogger(__name__)

_RETRIED_AT_ONCE = 32  # messages out of quarantine, so that no turn takes long


def answer(command: Command, parts: Parts) -> None:
    """Run a verb and publish its answer, now or when it is done; retained ones are ignored."""
    if command.retain:
        log.warning("retained command %r ignored: clear it on the broker", command.verb)
        return
    try:
        if command.verb not in VERBS:
            known = ", ".join(sorted(VERBS))
            raise MessageError(f"unknown verb {command.verb!r}; known: {known}")
        data = VERBS[command.verb](parts, command)
        if data is not None:
            parts.node.reply(command, data)
    except EdgeccError as error:
        parts.node.refuse(command, error)


def _pause(parts: Parts, _command: Command) -> Any:
    """Start no growth; predictions and labels go on."""
    parts.governor.stop_growths(True)
    return {"paused": True}


def _resume(parts: Parts, _command: Command) -> Any:
    parts.governor.stop_growths(False)
    return {"paused": False}


def _checkpoint(parts: Parts, _command: Command) -> Any:
    """Save the live readout as a generation and serve that."""
    serving = parts.serving
    parts.trial.check_free()
    if serving.predictor is None:
        raise MessageError("there is nothing to save yet; send a first sample")
    serving.catch_up_fully()
    manifest = serving.save_live()
    with parts.node.store.transaction():
        serving.set_next(manifest.number)
    serving.roll_to(manifest.number)
    return {"generation": manifest.number, "digest": manifest.digest}


def _rollback(parts: Parts, command: Command) -> None:
    """Serve an earlier generation again, if it is not worse or by force."""
    number = command.args.get("generation")
    if type(number) is not int:
        raise MessageError('rollback needs {"args": {"generation": N}}')
    parts.trial.check_free()
    if not parts.node.generations.path(number).exists():
        raise MessageError(f"no generation {number}; see `edgecc checkpoint list`")
    candidate = parts.serving.ready(number)
    manifest = candidate.manifest
    parts.trial.begin(Wanted(
        command, candidate, lambda: manifest, {"generation": number, "digest": manifest.digest}))


def _trust(parts: Parts, command: Command) -> Any:
    """Labels of a source count, or do not, whatever the statistics say."""
    source, trusted = command.args.get("source"), command.args.get("trusted", True)
    if not isinstance(source, str) or not isinstance(trusted, bool):
        raise MessageError('trust needs {"args": {"source": NAME, "trusted": true or false}}')
    check_source(source)
    parts.node.check_not_unlearning()
    parts.monitor.decide(source, trusted=trusted)
    return [one for one in parts.monitor.report() if one["source"] == source]


def _retry(parts: Parts, command: Command) -> Any:
    """Take samples and labels in quarantine in once more, some at a time.

    Those beyond number `after`, or the one number `seq`; the last number of the answer is the
    next `after`.
    """
    after, seq = command.args.get("after", 0), command.args.get("seq")
    if type(after) is not int or not (seq is None or type(seq) is int):
        raise MessageError('retry needs {"args": {"seq": N}} or {"args": {"after": N}}')
    kept = parts.node.store.quarantined_after(
        after if seq is None else seq - 1, _RETRIED_AT_ONCE if seq is None else 1,
        parts.node.config.topics / "in/")
    if seq is not None and [one[0] for one in kept] != [seq]:
        raise MessageError(f"no sample or label number {seq} in quarantine; see "
                           "`edgecc samples quarantine`")
    return parts.ingest.retry(kept)


def _reload(parts: Parts, _command: Command) -> Any:
    """Take over from the configuration what can change at run time; name what needs a restart."""
    parts.trial.check_free()
    return parts.reload()


# Each returns the answer, or None where the command is answered when it is done.
VERBS: dict[str, Callable[[Parts, Command], Any]] = {
    "ping": lambda parts, _: {"ts": time.time(), "generation": parts.serving.number},
    "pause": _pause, "resume": _resume, "checkpoint": _checkpoint, "rollback": _rollback,
    "push": lambda parts, command: parts.push.answer(command),
    "sources": lambda parts, _: parts.monitor.report(), "trust": _trust, "retry": _retry,
    "unlearn": lambda parts, command: parts.unlearning.answer(command), "reload": _reload,
}
