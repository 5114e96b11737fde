"""Memory as the kernel counts it."""


def peak_memory(pid: int | str = "self") -> int:
    """VmHWM of a process in bytes; 0 for one that has gone."""
    return _status(pid, "VmHWM:")


def resident_memory(pid: int | str = "self") -> int:
    """VmRSS of a process in bytes; 0 for one that has gone."""
    return _status(pid, "VmRSS:")


def _status(pid: int | str, name: str) -> int:
    try:
        with open(f"/proc/{pid}/status") as status:
            found = [line for line in status if line.startswith(name)]
    except OSError:
        return 0
    return int(found[0].split()[1]) * 1024 if found else 0
