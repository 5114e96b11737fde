"""Memory goes back to the kernel: freed blocks by glibc's allocator, and code that has run once."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edgecc.host.memory import code_memory

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # of <malloc.h>
_DONTNEED = 4  # of <sys/mman.h>
_OWN_PAGES = 256 * 1024  # bytes from which a block has pages of its own
_LOOK_EVERY = 0.002  # seconds
_CODE = 12 * 2**20  # bytes of code beside what stays, from which it is released


def frugal() -> None:
    """Use one arena for all threads, and give each matrix pages of its own: no holes in the heap.

    Unless the threshold is set, glibc raises it up to 32 MiB by itself. Other C libraries are left
    as they are.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.mallopt(_ARENA_MAX, 1)
        libc.mallopt(_MMAP_THRESHOLD, _OWN_PAGES)


def release_memory() -> None:
    """Give back to the kernel what is free within the heap, and the code that has run so far.

    A start maps libraries whole; of their code, what runs from now on comes back by itself. Its
    pages are executable and from files, so nothing can have been written in them.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    with open("/proc/self/maps") as maps:
        code = [line.split()[0] for line in maps
                if " r-xp " in line and "/" in line and "(deleted)" not in line]
    for addresses in code:
        first, last = (int(address, 16) for address in addresses.split("-"))
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONTNEED)


@contextmanager
def releasing_code() -> Iterator[None]:
    """Release memory whenever much code is resident, in a thread beside what runs within: a start.

    As it is imported, torch maps 65 MiB of code that runs once, and in a first step 50 more. Code
    that runs again comes back at a price, so this is not for long. Peaks (VmHWM, x86-64) with and
    without it: a learner's start with torch 193 and 233 MiB, its whole growth of one block of 16
    channels 213 and 233 MiB, a daemon's start 57 to 59 and 65 MiB. `pytest -s
    tests/host/test_allocator.py` prints the import's.
    """
    done = threading.Event()

    def look() -> None:
        bound = 0
        while not done.wait(_LOOK_EVERY):
            if code_memory() > bound:
                release_memory()
                bound = code_memory() + _CODE  # beside what stays

    thread = threading.Thread(target=look, name="releasing code", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
