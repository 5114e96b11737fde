"""Memory as the kernel counts it: of processes, and of control groups of version 1 or 2."""

from functools import partial
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_ENDLESS = 2**60  # version 1 says "no limit" with a number that no machine has


def _bytes(file: str, field: str, pid: int | str = "self") -> int:
    """A field of /proc/PID/`file` in bytes; 0 for a process that has gone."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


# Each takes the id of a process, by default this one's.
peak_memory = partial(_bytes, "status", "VmHWM")
resident_memory = partial(_bytes, "status", "VmRSS")
proportional_memory = partial(_bytes, "smaps_rollup", "Pss")  # what is shared counts in parts
code_memory = partial(_bytes, "status", "RssFile")  # pages of files, mostly code
data_memory = partial(_bytes, "status", "VmData")  # what RLIMIT_DATA bounds


def children(pid: int) -> list[int]:
    """Processes that `pid` has started and not yet reaped."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def cgroup_limit(pid: int | str = "self") -> tuple[int, Path] | None:
    """The lowest limit of the control groups above a process, in bytes, and the file it is in."""
    limits = [
        (size, file) for folder in _groups(pid)
        for file in (folder / "memory.max", folder / "memory.limit_in_bytes")
        if (size := _number(file)) is not None and size < _ENDLESS
    ]
    return min(limits, default=None)


def _groups(pid: int | str) -> list[Path]:
    """Folders of the control groups that count the memory of a process, innermost first."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            root = CGROUPS if number == "0" else CGROUPS / "memory"
            inner = root / path.strip("/")
            folders += [inner, *(above for above in inner.parents if above.is_relative_to(root))]
    return folders


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None  # not there, or "max"
