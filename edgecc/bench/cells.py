"""Finished measurements on disk, so that an interrupted bench goes on where it was.

A cell is one function call: its name, its arguments and the revision of the learning core name it.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

import edgecc
from edgecc.bench import figures

_PACKAGE = Path(edgecc.__file__).parent
_CORE = (
    "learn/**/*.py", "growth.py", "judging.py", "rows.py", "recipe.py", "stem.py", "trunk.py",
    "compile.py", "predictor.py", "generation.py", "packing.py", "made_up.py",
    "bench/device.py", "bench/rivals.py", "bench/streams.py",
)


def revision() -> str:
    """Digest of the sources that a figure depends on."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _CORE for path in _PACKAGE.glob(pattern)):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class Cells:
    """Cells of one revision, kept in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.revision = revision()
        self._folder = folder / self.revision
        self._folder.mkdir(parents=True, exist_ok=True)

    def get(self, measure: Callable[..., Mapping[str, Any]], **arguments: Any) -> dict[str, Any]:
        """What `measure(**arguments)` found, measured now if it never was."""
        name = measure.__name__.strip("_")
        key = json.dumps([name, arguments], sort_keys=True, default=str)
        path = self._folder / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
        if not path.exists():
            started = time.monotonic()
            click.echo(f"{name} {_short(arguments)} ... ", nl=False, err=True)
            measured = dict(measure(**arguments))
            seconds = time.monotonic() - started
            click.echo(f"{seconds:.0f} s", err=True)
            body = {
                "cell": name, "arguments": arguments, "revision": self.revision,
                "commit": figures.commit(), "machine": figures.machine(), "seconds": seconds,
                "found": measured,
            }
            part = path.with_suffix(".part")
            part.write_text(json.dumps(body, default=str, indent=1) + "\n")
            part.replace(path)
        stored = json.loads(path.read_text())
        found: dict[str, Any] = stored["found"] | {"seconds": stored["seconds"]}
        return found


def _short(arguments: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in arguments.items())
