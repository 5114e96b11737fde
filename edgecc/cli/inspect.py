"""A checkpoint looked into, or copied out of this node's state; either way verified first."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgecc.checkpoint import generation
from edgecc.checkpoint.generation import MANIFEST
from edgecc.checkpoint.keyring import Keys
from edgecc.checkpoint.manifest import FILES, Manifest
from edgecc.checkpoint.pinned_keys import keep, keys_for_folder
from edgecc.config.schema import Config
from edgecc.config.units import format_size
from edgecc.errors import CheckpointError
from edgecc.host import files


def inspect(config: Config, place: str, key: str | None, as_json: bool) -> None:
    """Everything that its manifest says, once it has passed every check."""
    folder = Path(place)
    if place.isdigit() and not folder.exists():
        folder = _own(config, int(place))
        found = generation.load(folder, Keys(config.state).trusted)
    else:
        found = generation.load(folder, keys_for_folder(folder, key))
    signers = _signers(folder)
    if as_json:
        about = asdict(found.manifest) | {"digest": found.manifest.digest, "signed_by": signers,
                                          "folder": str(folder)}
        click.echo(json.dumps(about, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_table(found.manifest, signers)))


def export(config: Config, number: int, folder: Path, as_json: bool) -> None:
    """Copy generation `number` to `folder`/<number>, with the node's public keys beside it."""
    source, keys = _own(config, number), Keys(config.state)
    target = folder / generation.name_of(number)
    if target.exists():
        raise CheckpointError(f"{target} is there already: delete it, or export to another folder")
    generation.load(source, keys.trusted)
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in (*FILES, MANIFEST):
        files.write(part / name, (source / name).read_bytes())
    manifest = generation.load(part, keys.trusted).manifest  # what was written, not what was read
    part.rename(target)
    keep(folder, keys.chain)
    if as_json:
        click.echo(json.dumps({"folder": str(target), "generation": number,
                               "digest": manifest.digest,
                               "public_key": keys.chain.newest.encode().hex()}, indent=2))
    else:
        click.echo(f"{target}: generation {number} of {manifest.node}, verified (digest "
                   f"{manifest.digest[:12]})")


def _own(config: Config, number: int) -> Path:
    folder = config.state.generations / generation.name_of(number)
    if not folder.exists():
        raise CheckpointError(
            f"no generation {number} in {config.state}: `edgecc checkpoint list` has the node's, "
            "and on another machine it must be pulled first")
    return folder


def _signers(folder: Path) -> list[str]:
    return [str(one["keyid"])
            for one in json.loads(generation.read_manifest(folder))["signatures"]]


def _table(manifest: Manifest, signers: list[str]) -> Iterator[str]:
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.created))
    shape = "×".join(map(str, manifest.node_input["shape"]))
    facts = {
        "generation": manifest.number, "node": manifest.node, "created": created,
        "signed by": ", ".join(signers), "digest": manifest.digest,
        "parent": manifest.parent or "none",
        "schema": manifest.schema, "input": f"{manifest.node_input['kind']} {shape}",
        "labels learnt": manifest.cursor, "growth": manifest.growth or "none, the bare stem",
        "classes": f"{len(manifest.classes)}: {', '.join(manifest.classes)}",
    }
    yield from (f"{name:14} {value}" for name, value in facts.items())
    for number, block in enumerate(manifest.blocks):
        yield f"{f'block {number}' if number else 'stem':14} {_block(block)}"
    for name, value in manifest.metrics.items():
        yield f"{name:14} {value:.4f}" if isinstance(value, float) else f"{name:14} {value}"
    for name, file in manifest.files.items():
        yield f"{name:22} {format_size(file.size):>9}  {file.sha256}"


def _block(block: dict[str, Any]) -> str:
    model = block.get("model")
    convs = ", ".join("×".join(map(str, shape)) for shape in block["convs"])
    pool, grid = ("×".join(map(str, block[name])) for name in ("pool", "grid"))
    what = model["name"] if model else f"filters {convs}"
    return f"{block['method']}, {what}, pool {pool}, grid {grid}"
