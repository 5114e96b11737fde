"""What a daemon and its learner take of memory while they run, as the kernel counts it."""

import threading
from contextlib import suppress
from pathlib import Path

from edgecc.host.memory import CGROUPS, children, peak_memory, proportional_memory

_EVERY = 0.1  # seconds


class Group:
    """A control group of our own, below the root; `folder` is None where none can be made."""

    def __init__(self, name: str) -> None:
        self.folder: Path | None = None
        for above in (CGROUPS / "memory", CGROUPS):
            folder = above / name
            with suppress(OSError):
                folder.mkdir(exist_ok=True)
                if (folder / "memory.stat").exists():
                    self.folder = folder
                    return
                folder.rmdir()

    @property
    def within(self) -> tuple[str, ...]:
        """The beginning of a command line that runs the rest of it in this group."""
        if self.folder is None:
            return ()
        return ("sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"))

    def resident(self) -> int:
        """Bytes now, without page cache."""
        if self.folder is None:
            return 0
        words = (self.folder / "memory.stat").read_text().split()
        counts = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        return counts["anon"] if "anon" in counts else counts["total_rss"]

    def close(self) -> None:
        if self.folder is not None:
            self.folder.rmdir()


class Tally:
    """Looks at process `pid` and its children ten times a second; a context manager.

    peak: the sum of VmHWM, of the children the largest over their lives.
    """

    def __init__(self, pid: int, group: Group) -> None:
        self._pid, self._group = pid, group
        self.daemon = self.learner = self.proportional = self.resident = 0
        self._done = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    @property
    def peak(self) -> int:
        return self.daemon + self.learner

    def __enter__(self) -> "Tally":
        self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._looking.join()

    def _look(self) -> None:
        while not self._done.wait(_EVERY):
            learners = children(self._pid)
            self.daemon = max(self.daemon, peak_memory(self._pid))
            self.learner = max([self.learner, *map(peak_memory, learners)])
            now = sum(map(proportional_memory, (self._pid, *learners)))
            self.proportional = max(self.proportional, now)
            self.resident = max(self.resident, self._group.resident())
