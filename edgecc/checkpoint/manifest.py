"""The manifest of a generation: its blocks, classes, files and their digests, and its parent.

`digest` names the content: files, cursor, recipe, plan and the parent's digest, but no time, no
live metric, no number and no signature. The parent's digest makes generations a chain.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgecc.errors import Corrupt, Incompatible

SCHEMA = "edgecc.checkpoint/3"
READABLE = (SCHEMA, "edgecc.checkpoint/2")  # 2 packed sums differently; 1 had other features
ELSEWHERE = -1  # number of a growth that was another node's
CHUNK = 64 * 1024  # bytes
FILES = ("blocks.safetensors", "readout.safetensors", "trunk.tflite")
_HELD_OUT = {
    "held_out": "by_sample", "held_out_by_source": "by_source", "held_out_by_run": "by_run"}
_CONTENT = (
    "node_input", "blocks", "classes", "alpha", "temperature", "cursor", "growth", "recipe",
    "plan", "parent",
)


@dataclass(frozen=True)
class File:
    size: int
    sha256: str
    chunks: tuple[str, ...]  # SHA-256 of each CHUNK bytes, in order


@dataclass(frozen=True)
class Manifest:
    node: str
    node_input: Mapping[str, Any]  # kind and shape
    number: int
    parent: str  # digest of the generation before, "" for the first
    created: float  # seconds since 1970
    cursor: int  # newest label in the readout
    growth: int  # which growth of the trunk made the blocks, 0: the bare stem; or ELSEWHERE
    blocks: list[dict[str, Any]]  # stem first: method, shape, pool, grid, int8 range
    classes: list[str]
    alpha: float
    temperature: float
    recipe: Mapping[str, Any]
    plan: Mapping[str, Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, File] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)  # keys of nodes whose samples it knows too
    schema: str = SCHEMA

    @property
    def held_out(self) -> dict[str, float]:
        """Its accuracies on held-out samples: `by_sample`, and `by_source` or `by_run`."""
        return held_out_of(self.metrics)

    @property
    def digest(self) -> str:
        content = {name: getattr(self, name) for name in _CONTENT}
        content["files"] = {name: file.sha256 for name, file in self.files.items()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> bytes:
        return json.dumps(asdict(self) | {"digest": self.digest}, sort_keys=True).encode()

    def with_files(self, folder: Path) -> "Manifest":
        return replace(self, files={name: describe((folder / name).read_bytes()) for name in FILES})


def held_out_of(figures: Mapping[str, Any]) -> dict[str, float]:
    """Held-out accuracies among the figures of a manifest or a verdict, by what was held out."""
    given = {by: figures.get(name) for name, by in _HELD_OUT.items()}
    return {by: value for by, value in given.items() if value is not None and math.isfinite(value)}


def describe(data: bytes) -> File:
    """Size and digests of a file, whole and by chunk."""
    chunks = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
    return File(len(data), _sha256(data), tuple(_sha256(chunk) for chunk in chunks))


def parse(data: bytes) -> Manifest:
    """The manifest in these bytes; Incompatible or Corrupt where it cannot be used."""
    try:
        value = json.loads(data)
        schema = value.get("schema")
        if schema not in READABLE:
            raise Incompatible(
                f"checkpoint schema {schema!r}, made by another version: this edgecc reads "
                f"{' and '.join(READABLE)}. A node restarts from its stem and learns what it has "
                "stored again; pull checkpoints from a node of this version")
        digest = value.pop("digest")
        known = {item.name for item in fields(Manifest)}
        manifest = Manifest(**{key: value[key] for key in known & value.keys()})
        manifest = replace(manifest, files=_files(value["files"]))
        if not isinstance(manifest.others, list) or not all(
            isinstance(one, str) for one in manifest.others
        ):
            raise TypeError(f"others {manifest.others!r} are not key fingerprints")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Corrupt(f"manifest cannot be read: {error!r}") from error
    if digest != manifest.digest:
        raise Corrupt(f"manifest says digest {digest}, its content has {manifest.digest}")
    return manifest


def _files(value: Mapping[str, Any]) -> dict[str, File]:
    if set(value) != set(FILES):
        raise Corrupt(f"manifest names files {sorted(value)}, expected {sorted(FILES)}")
    files = {name: File(f["size"], f["sha256"], tuple(f["chunks"])) for name, f in value.items()}
    for name, file in files.items():
        if type(file.size) is not int or file.size < 0 or not all(
            isinstance(chunk, str) for chunk in file.chunks
        ) or len(file.chunks) != -(-file.size // CHUNK):
            raise Corrupt(f"{name}: {file.size} bytes do not make {len(file.chunks)} chunks")
    return files


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
