"""What a node knows at a label, by readout: saved to go on from, and moved to another label.

Sums are exact, so a readout saved at one label is that of another once the labels in between are
learnt, or unlearnt, from the log: the same to the bit, whichever it was saved at.
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
    """`readout` of the generation with this digest, at label `cursor`; durable, or as before."""
    about = {
        "generation": digest, "cursor": str(cursor), "classes": json.dumps(readout.classes),
    }
    data = save(readout_file.tensors_of(readout, packed=False), metadata=about)
    files.replace(path, data)


def read(path: Path, dim: int) -> tuple[str, Readout, int]:
    """What `write` was given, over `dim` features; Corrupt where it cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        readout = readout_file.readout_from(tensors, json.loads(about["classes"]), dim)
        return about["generation"], readout, int(about["cursor"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{path}: {error}") from error
