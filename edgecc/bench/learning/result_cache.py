"""Results on disk, so that an interrupted bench goes on where it was.

A result is of one function call: named by the function, its arguments and the revision of the
learning core. None depends on another: missing ones are measured in parallel, one process a core.
"""

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

import edgecc
from edgecc.bench import figures
from edgecc.bench.figures import Figures
from edgecc.checkpoint import manifest

_PACKAGE = Path(edgecc.__file__).parent
_CORE = (  # the sources that accuracies depend on
    "learn/**/*.py", "trunk/*.py", "plan/stem_trunk.py", "serving/predictor.py",
    "training/dataset.py", "training/evaluation.py", "training/growth.py",
    "training/label_filter.py", "training/recipe.py", "bench/learning/*.py", "bench/streams.py",
)
_ONE_THREAD = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Call:
    """`measure(**arguments)`, a function of a module, whose result JSON can hold."""

    measure: Callable[..., Mapping[str, Any]]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.measure.__name__

    @property
    def file(self) -> str:
        key = json.dumps([self.name, self.arguments], sort_keys=True, default=str)
        return f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"

    def __str__(self) -> str:
        shown = [f"{name}={value}" for name, value in self.arguments.items() if name != "plan"]
        return " ".join([self.name, *shown])


def revision(sources: Sequence[str] = _CORE) -> str:
    """Digest of these sources, and of the checkpoint format that bytes are counted in."""
    digest = hashlib.sha256(manifest.SCHEMA.encode())
    for path in sorted(path for pattern in sources for path in _PACKAGE.glob(pattern)):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class Results:
    """Results of one revision, kept in `folder`."""

    def __init__(
        self, folder: Path, *, processes: int | None = None, sources: Sequence[str] = _CORE,
        fresh: bool = False,
    ) -> None:
        """sources: what results depend on; fresh: every call in a process of its own."""
        self.revision = revision(sources)
        self._processes = processes or os.cpu_count() or 1
        self._calls_a_process = 1 if fresh else None
        self._folder = folder / self.revision
        self._folder.mkdir(parents=True, exist_ok=True)

    def get(self, wanted: Mapping[str, Sequence[Call]]) -> dict[str, list[Figures]]:
        """The results of the calls wanted, under the same names; missing ones are measured now."""
        calls = {call.file: call for group in wanted.values() for call in group}
        self._measure([
            call for file, call in calls.items() if not (self._folder / file).exists()])
        return {name: [self._read(call) for call in group] for name, group in wanted.items()}

    def _measure(self, missing: Sequence[Call]) -> None:
        if not missing:
            return
        for variable in _ONE_THREAD:
            os.environ.setdefault(variable, "1")
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            self._processes, context, max_tasks_per_child=self._calls_a_process
        ) as pool:
            for call, seconds in zip(
                missing, pool.map(_measured, missing, [self._folder] * len(missing)), strict=True
            ):
                click.echo(f"{call}: {seconds:.0f} s", err=True)

    def _read(self, call: Call) -> Figures:
        stored = json.loads((self._folder / call.file).read_text())
        result: Figures = stored["result"] | {"seconds": stored["seconds"]}
        return result


def _measured(call: Call, folder: Path) -> float:
    """In another process: measure and keep; the seconds of processor time it took."""
    started = time.process_time()
    result = dict(call.measure(**call.arguments))
    seconds = time.process_time() - started
    body = {
        "call": call.name, "arguments": dict(call.arguments), "revision": folder.name,
        "commit": figures.commit(), "machine": figures.machine(), "seconds": seconds,
        "result": result,
    }
    part = folder / f"{call.file}.part"
    part.write_text(json.dumps(body, default=str, indent=1) + "\n")
    part.replace(folder / call.file)
    return seconds
