"""glibc's allocator, told to keep little: what is freed goes back to the kernel."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # of <malloc.h>
_DONTNEED = 4  # of <sys/mman.h>
_OWN_PAGES = 256 * 1024  # bytes from which a block has pages of its own


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
def letting_go(every: float) -> Iterator[None]:
    """`let_go` every so many seconds, beside what runs within."""
    done = threading.Event()

    def again() -> None:
        while not done.wait(every):
            let_go()

    thread = threading.Thread(target=again, name="letting go", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _glibc() -> Any:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None
