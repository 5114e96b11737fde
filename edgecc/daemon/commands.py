"""`command/<verb>`: what an operator may ask of a running node, and the answer."""

import logging
import time
from collections.abc import Callable
from typing import Any

from edgecc.daemon.governor import Governor
from edgecc.daemon.node import Node
from edgecc.daemon.push import Push
from edgecc.daemon.trial import Trial, Wanted
from edgecc.daemon.unlearning import Unlearning
from edgecc.errors import EdgeccError, MessageError
from edgecc.ingest.monitor import Monitor
from edgecc.ingest.pipeline import Ingest
from edgecc.protocol.messages import Command
from edgecc.protocol.topics import check_source

log = logging.getLogger(__name__)

_RETRIED_AT_ONCE = 32  # messages out of quarantine, so that no turn takes long


class Commands:
    def __init__(
        self, node: Node, *, ingest: Ingest, monitor: Monitor, governor: Governor, trial: Trial,
        push: Push, unlearning: Unlearning, reload: Callable[[], Any],
    ) -> None:
        self._node, self._serving = node, node.serving
        self._ingest, self._monitor, self._governor = ingest, monitor, governor
        self._trial, self._push_stage, self._unlearning = trial, push, unlearning
        self._reload_daemon = reload

    def answer(self, command: Command) -> None:
        """Run a verb and publish its answer, now or when it is done; retained ones are ignored."""
        if command.retain:
            log.warning("retained command %r ignored: clear it on the broker", command.verb)
            return
        try:
            if command.verb not in VERBS:
                known = ", ".join(sorted(VERBS))
                raise MessageError(f"unknown verb {command.verb!r}; known: {known}")
            data = VERBS[command.verb](self, command)
            if data is not None:
                self._node.reply(command, data)
        except EdgeccError as error:
            self._node.refuse(command, error)

    def _ping(self, _command: Command) -> Any:
        return {"ts": time.time(), "generation": self._serving.number}

    def _pause(self, _command: Command) -> Any:
        """Start no growth; predictions and labels go on."""
        self._governor.stop_growths(True)
        return {"paused": True}

    def _resume(self, _command: Command) -> Any:
        self._governor.stop_growths(False)
        return {"paused": False}

    def _checkpoint(self, _command: Command) -> Any:
        """Save the live readout as a generation and serve that."""
        self._trial.check_free()
        if self._serving.predictor is None:
            raise MessageError("there is nothing to save yet; send a first sample")
        self._serving.catch_up_fully()
        manifest = self._serving.save_live()
        with self._node.store.transaction():
            self._serving.set_next(manifest.number)
        self._serving.roll_to(manifest.number)
        return {"generation": manifest.number, "digest": manifest.digest}

    def _rollback(self, command: Command) -> None:
        """Serve an earlier generation again, if it is not worse or by force."""
        number = command.args.get("generation")
        if type(number) is not int:
            raise MessageError('rollback needs {"args": {"generation": N}}')
        self._trial.check_free()
        if not self._node.generations.path(number).exists():
            raise MessageError(f"no generation {number}; see `edgecc checkpoint list`")
        candidate = self._serving.ready(number)
        manifest = candidate.manifest
        self._trial.begin(Wanted(
            command, candidate, lambda: manifest,
            {"generation": number, "digest": manifest.digest}))

    def _push(self, command: Command) -> Any:
        return self._push_stage.answer(command)

    def _unlearn(self, command: Command) -> Any:
        return self._unlearning.answer(command)

    def _sources(self, _command: Command) -> Any:
        return self._monitor.report()

    def _trust(self, command: Command) -> Any:
        """Labels of a source count, or do not, whatever the statistics say."""
        source, trusted = command.args.get("source"), command.args.get("trusted", True)
        if not isinstance(source, str) or not isinstance(trusted, bool):
            raise MessageError('trust needs {"args": {"source": NAME, "trusted": true or false}}')
        check_source(source)
        self._node.check_not_unlearning()
        self._monitor.decide(source, trusted=trusted)
        return [one for one in self._monitor.report() if one["source"] == source]

    def _retry(self, command: Command) -> Any:
        """Take samples and labels in quarantine in once more, some at a time.

        Those beyond number `after`, or the one number `seq`; the last number of the answer is the
        next `after`.
        """
        after, seq = command.args.get("after", 0), command.args.get("seq")
        if type(after) is not int or not (seq is None or type(seq) is int):
            raise MessageError('retry needs {"args": {"seq": N}} or {"args": {"after": N}}')
        kept = self._node.store.quarantined_after(
            after if seq is None else seq - 1, _RETRIED_AT_ONCE if seq is None else 1,
            self._node.config.topics / "in/")
        if seq is not None and [one[0] for one in kept] != [seq]:
            raise MessageError(f"no sample or label number {seq} in quarantine; see "
                               "`edgecc samples quarantine`")
        return self._ingest.retry(kept)

    def _reload(self, _command: Command) -> Any:
        """Take over from the configuration what can change at run time; name what needs a restart.
        """
        self._trial.check_free()
        return self._reload_daemon()


# Each returns the answer, or None where the command is answered when it is done.
VERBS: dict[str, Callable[[Commands, Command], Any]] = {
    "ping": Commands._ping, "pause": Commands._pause, "resume": Commands._resume,
    "checkpoint": Commands._checkpoint, "rollback": Commands._rollback, "push": Commands._push,
    "sources": Commands._sources, "trust": Commands._trust, "retry": Commands._retry,
    "unlearn": Commands._unlearn, "reload": Commands._reload,
}
