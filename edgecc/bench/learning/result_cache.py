"""Finished measurements on disk, so that an interrupted bench goes on where it was.

A cell is one function call: its name, its arguments and the revision of the learning core name it.
Cells do not depend on each other: missing ones are measured at once, a process for each core.
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
from edgecc.checkpoint import manifest

_PACKAGE = Path(edgecc.__file__).parent
_CORE = (
    "learn/**/*.py", "growth.py", "plausible.py", "judging.py", "rows.py", "recipe.py", "stem.py",
    "trunk.py", "compile.py", "graph.py", "interpreter.py", "predictor.py",
    "made_up.py", "sizes.py", "bench/device.py", "bench/rivals.py", "bench/streams.py",
    "bench/one_pass.py", "bench/many_passes.py",
)
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Found = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """`measure(**arguments)`, a function of a module, whose answer JSON can hold."""

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
        told = [f"{name}={value}" for name, value in self.arguments.items() if name != "plan"]
        return " ".join([self.name, *told])


def revision() -> str:
    """Digest of the sources that a figure depends on, and of the format that state is sized in."""
    digest = hashlib.sha256(manifest.SCHEMA.encode())
    for path in sorted(path for pattern in _CORE for path in _PACKAGE.glob(pattern)):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class Cells:
    """Cells of one revision, kept in `folder`."""

    def __init__(self, folder: Path, *, processes: int | None = None) -> None:
        self.revision = revision()
        self._processes = processes or os.cpu_count() or 1
        self._folder = folder / self.revision
        self._folder.mkdir(parents=True, exist_ok=True)

    def get(self, wanted: Mapping[str, Sequence[Cell]]) -> dict[str, list[Found]]:
        """What the wanted cells found, under the same names; missing ones are measured now."""
        cells = {cell.file: cell for group in wanted.values() for cell in group}
        self._measure([
            cell for file, cell in cells.items() if not (self._folder / file).exists()])
        return {name: [self._read(cell) for cell in group] for name, group in wanted.items()}

    def _measure(self, missing: Sequence[Cell]) -> None:
        if not missing:
            return
        for variable in _ONE_THREAD:
            os.environ.setdefault(variable, "1")
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self._processes, context) as pool:
            for cell, seconds in zip(
                missing, pool.map(_measured, missing, [self._folder] * len(missing)), strict=True
            ):
                click.echo(f"{cell}: {seconds:.0f} s", err=True)

    def _read(self, cell: Cell) -> Found:
        stored = json.loads((self._folder / cell.file).read_text())
        found: Found = stored["found"] | {"seconds": stored["seconds"]}
        return found


def _measured(cell: Cell, folder: Path) -> float:
    """In a process of its own: measure and keep; the seconds of processor time it took."""
    import torch

    torch.set_num_threads(1)
    started = time.process_time()
    found = dict(cell.measure(**cell.arguments))
    seconds = time.process_time() - started
    body = {
        "cell": cell.name, "arguments": dict(cell.arguments), "revision": revision(),
        "commit": figures.commit(), "machine": figures.machine(), "seconds": seconds,
        "found": found,
    }
    part = folder / f"{cell.file}.part"
    part.write_text(json.dumps(body, default=str, indent=1) + "\n")
    part.replace(folder / cell.file)
    return seconds
