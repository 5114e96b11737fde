"""How long processes ran, by the kernel's count, and when they rest."""

import time
from pathlib import Path

from support.patience import until


def ran(pid: int) -> int:
    """Nanoseconds on a processor that a process's threads of now have had."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def await_rest(pid: int, seconds: float = 0.3) -> int:
    """What the process has had, once it has had nothing more in so many seconds."""
    def rests() -> bool:
        before = ran(pid)
        time.sleep(seconds)
        return ran(pid) == before

    until(rests, f"process {pid} never rests", every=0.0)
    return ran(pid)
