"""What a node does while its disk is full: it acks nothing, says so, deletes nothing, and waits.

The broker keeps what is sent meanwhile, as the window of messages not acknowledged is full. Once
there is room, all that is derived from the log is made anew from it, as after a crash.
"""

from __future__ import annotations

import errno
import logging
import time
from typing import TYPE_CHECKING

from edgecc.errors import StorageFull

if TYPE_CHECKING:
    from edgecc.daemon.daemon import Daemon

log = logging.getLogger(__name__)

_LOOK_EVERY = 1.0  # seconds between two looks whether there is room


class Shortage:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.since: float | None = None  # seconds since 1970; None: there is room

    def sit_out(self, error: Exception) -> None:
        """Return once the log can be written again, or the daemon is to stop."""
        if not is_full(error):
            raise error
        daemon = self._daemon
        self.since = time.time()
        log.error("%s: nothing is acknowledged until there is room", error)
        daemon.supervisor.drop()
        daemon.announcer.alert("storage-full", "error", {"what": str(error)})
        look, said = time.monotonic() + _LOOK_EVERY, 0.0
        while not daemon.stopping:
            daemon.hear()
            now = time.monotonic()
            if daemon.outbox.window and now - said > daemon.announcer.HEALTH_EVERY:
                said = now
                daemon.announcer.health()
            daemon.outbox.pump()
            daemon.watchdog.feed()
            if now >= look:
                if self._is_over():
                    return
                look = time.monotonic() + _LOOK_EVERY

    def _is_over(self) -> bool:
        daemon, since = self._daemon, self.since
        if not daemon.store.has_room():
            return False
        try:
            daemon.revive()
            with daemon.store.transaction():
                daemon.announcer.event("storage-back", "info", {"since": since})
        except (StorageFull, OSError) as error:
            if not is_full(error):
                raise
            return False
        self.since = None
        log.info("there is room again")
        return True


def is_full(error: Exception) -> bool:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or isinstance(error, StorageFull)
