"""Memory as the kernel counts it: of processes, and of control groups of version 1 or 2."""

from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_ENDLESS = 2**60  # version 1 says "no limit" with a number that no machine has


def peak_memory(pid: int | str = "self") -> int:
    """VmHWM of a process in bytes; 0 for one that has gone."""
    return _field(f"/proc/{pid}/status", "VmHWM:")


def resident_memory(pid: int | str = "self") -> int:
    """VmRSS of a process in bytes; 0 for one that has gone."""
    return _field(f"/proc/{pid}/status", "VmRSS:")


def proportional_memory(pid: int | str = "self") -> int:
    """Pss of a process in bytes, where what is shared counts in parts; 0 for one that has gone."""
    return _field(f"/proc/{pid}/smaps_rollup", "Pss:")


def code_memory(pid: int | str = "self") -> int:
    """RssFile of a process in bytes, pages of files, mostly code; 0 for one that has gone."""
    return _field(f"/proc/{pid}/status", "RssFile:")


def data_memory(pid: int | str = "self") -> int:
    """VmData of a process in bytes, which RLIMIT_DATA bounds; 0 for one that has gone."""
    return _field(f"/proc/{pid}/status", "VmData:")


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


def _field(path: str, name: str) -> int:
    try:
        with open(path) as file:
            lines = [line for line in file if line.startswith(name)]
    except OSError:
        return 0
    return int(lines[0].split()[1]) * 1024 if lines else 0
