"""glibc's allocator, told to keep little: what is freed goes back to the kernel."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgecc.host.memory import code_memory

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # of <malloc.h>
_DONTNEED = 4  # of <sys/mman.h>
_OWN_PAGES = 256 * 1024  # bytes from which a block has pages of its own
_LOOK_EVERY = 0.002  # s
_CODE = 12 * 2**20  # bytes


def frugal() -> None:
    """One arena for all threads, and no matrix in the heap, where it would leave holes.

    glibc moves the second bound up to 32 MiB by itself, unless it is set. Other C libraries are
    left as they are.
    """
    if (libc := _glibc()) is not None:
        libc.mallopt(_ARENA_MAX, 1)
        libc.mallopt(_MMAP_THRESHOLD, _OWN_PAGES)


def trim() -> None:
    """Give back what is free within the heap."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def let_go() -> None:
    """The same, and the code that has run so far: of libraries that a start maps whole, what runs
    from now on comes back by itself.

    Its pages are executable and from files, so that nothing can have been written in them.
    """
    trim()
    libc = ctypes.CDLL(None)
    with open("/proc/self/maps") as maps:
        found = [line.split() for line in maps
                 if " r-xp " in line and "/" in line and "(deleted)" not in line]
    for addresses, *_ in found:
        first, last = (int(address, 16) for address in addresses.split("-"))
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONTNEED)


@contextmanager
def little_code() -> Iterator[None]:
    """`let_go` whenever much code is resident, beside what runs within: a start.

    As it is imported, torch maps 65 MiB of code that runs once, and in a first step 50 more. What
    runs again and again comes back, at a price: not for long.
    """
    done = threading.Event()

    def look() -> None:
        bound = 0
        while not done.wait(_LOOK_EVERY):
            if code_memory() > bound:
                let_go()
                bound = code_memory() + _CODE  # beside what does not go

    thread = threading.Thread(target=look, name="little code", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _glibc() -> Any:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None
