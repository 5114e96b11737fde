"""What goes back to the kernel, as it counts it itself."""

import os
import subprocess
import sys

from edgecc.plan.costs import MIB
from edgecc.training.supervisor import FRUGAL

IMPORT = """
from contextlib import nullcontext
from edgecc.host import allocator, memory
with {}():
    import torch
print(memory.peak_memory())
"""


def taken(within: str) -> int:
    """Bytes that a process which imports torch takes at most."""
    return int(subprocess.run(
        [sys.executable, "-c", IMPORT.format(within)], env=os.environ | FRUGAL, check=True,
        capture_output=True, text=True).stdout)


def test_code_that_runs_once_leaves_while_torch_is_imported() -> None:
    with_it, without = taken("allocator.releasing_code"), taken("nullcontext")
    print(f"peak of `import torch`: {with_it / MIB:.0f} MiB, {without / MIB:.0f} without")
    assert with_it < without - 30 * MIB


KEEP_AND_FREE = """
import numpy, edgecc.daemon.daemon
from edgecc.host import allocator
from edgecc.host.memory import resident_memory
allocator.frugal()
before = resident_memory()
kept = [numpy.ones(2**17) for _ in range(64)]
full = resident_memory()
kept.clear()
freed = resident_memory()
allocator.release_memory()
print(before, full, freed, resident_memory(), numpy.ones((9, 9)).dot(numpy.ones((9, 9))).sum())
"""


def test_what_is_freed_and_code_that_has_run_go_back_to_the_kernel() -> None:
    done = subprocess.run([sys.executable, "-c", KEEP_AND_FREE], check=True, capture_output=True)
    before, full, freed, after, worked = map(float, done.stdout.split())
    assert full > before + 60 * MIB
    assert freed < before + 4 * MIB
    assert after < before - 8 * MIB
    assert worked == 9**3
