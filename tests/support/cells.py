"""What a cell of a bench measures, importable by the processes that measure it."""

from collections.abc import Mapping
from pathlib import Path


def measured(*, seed: int, log: str) -> Mapping[str, float]:
    """A cell's measurement, which also says that it ran."""
    with Path(log).open("a") as file:
        file.write(f"{seed}\n")
    return {"accuracy": seed / 10}
