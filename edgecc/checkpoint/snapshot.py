"""A readout saved with its cursor, to continue from after a restart or in a growth.

Sums are exact: once the labels between two cursors are learnt (or unlearnt) from the log, a readout
saved at one is the readout at the other, to the bit.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edgecc.checkpoint import readout_file
from edgecc.errors import Corrupt
from edgecc.host import files
from edgecc.learn.readout import Readout


def write(path: Path, digest: str, readout: Readout, cursor: int) -> None:
    """Save the readout of the generation with this digest, at label `cursor`, whole and durable."""
    about = {
        "generation": digest, "cursor": str(cursor), "classes": json.dumps(readout.classes),
    }
    data = save(readout_file.tensors_of(readout, packed=False), metadata=about)
    files.replace(path, data)


def read(path: Path, dim: int) -> tuple[str, Readout, int]:
    """(digest, readout over `dim` features, cursor); Corrupt where they cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        readout = readout_file.readout_from(tensors, json.loads(about["classes"]), dim)
        return about["generation"], readout, int(about["cursor"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{path}: {error}") from error
