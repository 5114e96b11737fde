"""A clock that jumps: libfaketime, preloaded, moves the wall clock of a process while it runs.

The monotonic clock goes on as it is, as the kernel's does when somebody sets the time.
"""

from pathlib import Path

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


class Clock:
    """Of every process started with `environ`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "faketime"
        self.environ = {
            "LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # seconds
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    def set(self, offset: int) -> None:
        """Seconds beside the true time, within a second from now."""
        part = self._file.with_suffix(".part")
        part.write_text(f"{offset:+d}\n")
        part.rename(self._file)
