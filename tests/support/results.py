"""What a bench may measure, importable by the processes that measure it."""

from collections.abc import Mapping
from pathlib import Path


def measured(*, seed: int, log: str) -> Mapping[str, float]:
    """A result, and a line in the log that it was measured."""
    with Path(log).open("a") as file:
        file.write(f"{seed}\n")
    return {"accuracy": seed / 10}
