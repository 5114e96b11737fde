"""Crash points. Python imports this at the start of every process that has this folder on its
PYTHONPATH: the daemon, its learner and a producer under test, none of which knows of it.

A point is a function of the real program, wrapped as its module is imported. Each time a process
passes the point it looks for a file with the point's name in the folder $CRASH_POINTS. The file
holds how many more passes to let by; at the last one it is removed, and the process sends itself
SIGKILL there and then. So a point can be armed while the process runs, and it strikes once.
"""

import contextlib
import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

# role -> point -> module, function in it, and where the process dies: before or after the call,
# or, of a context manager, at the end of its block.
POINTS = {
    "daemon": {
        "after receive": ("edgecc.mqtt.connection", "Link._on_message", "after"),
        "before write": ("edgecc.ingest.commit", "Committer.commit", "before"),
        "mid-write": ("edgecc.store.writer", "Store.record", "after"),
        "after write": ("edgecc.store.writer", "Store.transaction", "within"),
        "after commit": ("edgecc.store.writer", "Store.transaction", "after"),
        "before ack": ("edgecc.mqtt.connection", "Link.ack", "before"),
        "after ack": ("edgecc.mqtt.connection", "Link.ack", "after"),
        "before publish": ("edgecc.mqtt.outbox", "Outbox.pump", "before"),
        "mid-generation": ("edgecc.host.files", "write", "after"),
        "before rename": ("pathlib", "Path.rename", "before"),
        "after rename": ("pathlib", "Path.rename", "after"),
        "before replace": ("pathlib", "Path.replace", "before"),
        "after replace": ("pathlib", "Path.replace", "after"),
        "before swap": ("edgecc.serving.serving", "Serving.swap", "before"),
    },
    "learner": {
        "mid-training": ("edgecc.learn.network", "Network.sweep", "before"),
        "mid-generation": ("edgecc.host.files", "write", "after"),
        "before replace": ("pathlib", "Path.replace", "before"),
        "after replace": ("pathlib", "Path.replace", "after"),
    },
    "producer": {
        "before send": ("edgecc.capture.producer", "Stream._send", "before"),
        "after send": ("edgecc.capture.producer", "Stream._send", "after"),
        "before receipts": ("edgecc.capture.producer", "Stream._settle", "before"),
        "after receipts": ("edgecc.capture.producer", "Stream._settle", "after"),
    },
}


def _role() -> str:
    if "edgecc.training.learner" in sys.orig_argv:
        return "learner"
    return "producer" if "stream" in sys.orig_argv else "daemon"


def _pass(folder: Path, role: str, point: str) -> None:
    armed = folder / f"{role} {point}"
    try:
        with armed.open("r+") as file:
            left = int(file.read() or 1)  # empty: killed from outside while it was written
            if left > 1:
                file.seek(0)
                file.truncate()
                file.write(str(left - 1))
                return
        armed.unlink()
    except FileNotFoundError:  # or disarmed meanwhile
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _wrapped(call: Callable[..., Any], where: str, strike: Callable[[], None]) -> Any:
    @functools.wraps(call)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if where == "before":
            strike()
        result = call(*args, **kwargs)
        if where == "after":
            strike()
        return result

    @functools.wraps(call)
    @contextlib.contextmanager
    def block(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with call(*args, **kwargs) as value:
            yield value
            if where == "within":
                strike()
        if where == "after":
            strike()

    return block if inspect.isgeneratorfunction(inspect.unwrap(call)) else wrapper


def _install(folder: Path, role: str) -> None:
    wanted: dict[str, list[tuple[str, str, str]]] = {}
    for point, (module, function, where) in POINTS[role].items():
        wanted.setdefault(module, []).append((point, function, where))

    def wrap(module: ModuleType) -> None:
        for point, function, where in wanted.pop(module.__name__, ()):
            *owner, name = function.split(".")
            holder = getattr(module, owner[0]) if owner else module
            strike = functools.partial(_pass, folder, role, point)
            setattr(holder, name, _wrapped(getattr(holder, name), where, strike))
        if module.__name__ == "edgecc.store.writer" and "MAX_PAGES" in os.environ:
            _limit_pages(module.Store)

    class OnImport:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            spec = PathFinder.find_spec(name, path, target) if name in wanted else None
            if spec is not None and spec.loader is not None:
                run = spec.loader.exec_module

                def exec_module(module: ModuleType) -> None:
                    run(module)
                    wrap(module)

                spec.loader.exec_module = exec_module  # type: ignore[method-assign]
            return spec

    sys.meta_path.insert(0, OnImport)
    wrap(sys.modules["pathlib"])  # imported above


def _limit_pages(store: Any) -> None:
    """Before each transaction, PRAGMA max_page_count is what the file $MAX_PAGES says."""
    transaction = store.transaction

    def limited(self: Any) -> Any:
        with contextlib.suppress(FileNotFoundError):
            pages = int(Path(os.environ["MAX_PAGES"]).read_text())
            self._db.execute(f"PRAGMA max_page_count={pages}")
        return transaction(self)

    store.transaction = limited


if "CRASH_POINTS" in os.environ:
    _install(Path(os.environ["CRASH_POINTS"]), _role())
