"""`edgecc checkpoint`: generations listed, fetched, verified, inspected, copied, sent, rolled back.

Whatever is read is verified first. `inspect NUMBER` and `export` read this node's own state; the
others ask the node over MQTT.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgecc.checkpoint import generation, transfer
from edgecc.checkpoint.generation import MANIFEST
from edgecc.checkpoint.keyring import Keys
from edgecc.checkpoint.manifest import FILES, Manifest
from edgecc.checkpoint.pinned_keys import KEY_FILE, keep, keys_for_folder, pin
from edgecc.checkpoint.signing import key_id
from edgecc.cli.common import json_option, output, print_json, when, with_config
from edgecc.config.schema import Config
from edgecc.config.units import format_size
from edgecc.errors import CheckpointError, EdgeccError, NotRunning
from edgecc.host import files
from edgecc.mqtt.client import Client

TRIAL_PATIENCE = 900.0  # seconds in which a node learns its log with another trunk

_folder = click.Path(path_type=Path, file_okay=False)
_key_option = click.option("--key", help="Public key (hex) that must have signed it; else the one "
                           "kept beside the folder.")
_force_option = click.option("--force", is_flag=True,
                             help="Even if it does worse on held-out samples.")


@click.group()
def checkpoint() -> None:
    """List, fetch, verify, inspect, copy and roll back generations."""


@checkpoint.command("list")
@json_option
@with_config
def list_offers(config: Config, as_json: bool) -> None:
    """List the generations that the node offers."""
    with Client(config) as client:
        offers = _offers(client, config)
    output(offers, map(_offer, offers), as_json)


def _offer(offer: dict[str, Any]) -> str:
    held_out = "-" if offer["held_out"] is None else f"{offer['held_out']:.4f} by sample"
    held_out += "".join(f", {offer[f'held_out_by_{group}']:.4f} by {group}"
                        for group in ("source", "run") if f"held_out_by_{group}" in offer)
    return (f"{offer['generation']:6}  {when(offer['created'])}  {offer['blocks']} blocks  "
            f"{offer['classes']:4} classes  held-out {held_out}  "
            f"{format_size(offer['bytes']):>9}  {offer['digest'][:12]}"
            f"{'  serving' if offer['serving'] else ''}")


@checkpoint.command()
@click.argument("number", type=int, required=False)
@click.option("--to", "folder", type=_folder, default=Path("checkpoints"), show_default=True)
@click.option("--key", help="Public key (hex) that must have signed it; else the key that this "
              "node showed first.")
@json_option
@with_config
def pull(
    config: Config, number: int | None, folder: Path, key: str | None, as_json: bool
) -> None:
    """Fetch a generation (default: the newest) over MQTT and verify it."""
    with Client(config) as client:
        offers = _offers(client, config)
        if number is None:
            number = _newest(offers, folder)
        trusted, new = pin(folder, client.retained(config.topics / "info"), key)
        for one in new:
            click.echo(f"trusting {one.encode().hex()} (fingerprint {key_id(one)}) for this node "
                       f"from now on, kept in {folder / KEY_FILE}", err=True)
        manifest = transfer.pull(client, config.topics, number, folder=folder, trusted=trusted,
                                 progress=_progress)
    _print_verified(manifest, folder / generation.name_of(number), as_json)


def _offers(client: Client, config: Config) -> list[dict[str, Any]]:
    payload = client.retained(config.topics / "checkpoint/index")
    if payload is None:
        raise NotRunning(f"{config.topics.root} offers no checkpoints; is `edgecc start` running?")
    offers: list[dict[str, Any]] = json.loads(payload)
    return offers


def _newest(offers: list[dict[str, Any]], folder: Path) -> int:
    """The newest on offer; one older than what was pulled before must be named."""
    offered = max((int(offer["generation"]) for offer in offers), default=-1)
    pulled = max(generation.numbers(folder), default=-1) if folder.exists() else -1
    if offered < pulled:
        raise CheckpointError(f"generation {offered} is the newest on offer, {folder} has "
                              f"{pulled}: `edgecc checkpoint pull {offered}` goes back")
    return offered


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{format_size(done)} of {format_size(total)}   ", err=True, nl=done >= total)


@checkpoint.command()
@click.argument("folder", type=click.Path(path_type=Path))
@_key_option
@json_option
def verify(folder: Path, key: str | None, as_json: bool) -> None:
    """Check signature, digests, shapes and values of a checkpoint's folder."""
    manifest = generation.load(folder, keys_for_folder(folder, key)).manifest
    _print_verified(manifest, folder, as_json)


def _print_verified(manifest: Manifest, folder: Path, as_json: bool, **more: str) -> None:
    size = sum(file.size for file in manifest.files.values())
    output({
        "folder": str(folder), "generation": manifest.number, "digest": manifest.digest,
        "parent": manifest.parent, "node": manifest.node, "classes": manifest.classes,
        "blocks": manifest.blocks, "metrics": dict(manifest.metrics), "bytes": size,
    } | more, [f"{folder}: generation {manifest.number} of {manifest.node}, verified "
        f"({format_size(size)}, {len(manifest.classes)} classes, digest {manifest.digest[:12]})"],
        as_json)


@checkpoint.command()
@with_config
def save(config: Config) -> None:
    """Have the node save its live readout as a new generation."""
    with Client(config) as client:
        print_json(client.command("checkpoint", {}, timeout=60.0))


@checkpoint.command()
@click.argument("folder", type=_folder)
@_force_option
@with_config
def push(config: Config, folder: Path, force: bool) -> None:
    """Send a signed generation to the node, to serve unless it does worse than what serves."""
    _try(config, lambda client: transfer.push(
        client, config.topics, folder, force=force, timeout=TRIAL_PATIENCE, progress=_progress))


@checkpoint.command()
@click.argument("number", type=int)
@_force_option
@with_config
def rollback(config: Config, number: int, force: bool) -> None:
    """Have the node serve an earlier generation again, unless it does worse than what serves."""
    args = {"generation": number, "force": force}
    _try(config, lambda client: client.command("rollback", args, timeout=TRIAL_PATIENCE))


def _try(config: Config, ask: Callable[[Client], dict[str, Any]]) -> None:
    """Have the node try a generation, and show how it did; an error where that was worse than what
    serves, and where the node is not online, so that nobody waits long."""
    with Client(config) as client:
        if client.retained(config.topics / "status") != b"online":
            raise NotRunning(f"{config.topics.root} is not online: run `edgecc start` there")
        trial = ask(client)
    print_json(trial)
    if not trial["swapped"]:
        raise EdgeccError(
            f"of {trial['held_rows']} held-out samples it gets {trial['held_out']:.1%} right, what "
            f"serves {trial['held_out_serving']:.1%}: not swapped; --force swaps all the same")


@checkpoint.command()
@click.argument("place", metavar="PATH|NUMBER")
@_key_option
@json_option
@with_config
def inspect(config: Config, place: str, key: str | None, as_json: bool) -> None:
    """Show what is in a checkpoint's folder, or in generation NUMBER of this node's own state."""
    folder = Path(place)
    if place.isdigit() and not folder.exists():
        folder = _own(config, int(place))
        trusted = Keys(config.state).trusted
    else:
        trusted = keys_for_folder(folder, key)
    manifest = generation.load(folder, trusted).manifest
    signers = [str(one["keyid"])
               for one in json.loads(generation.read_manifest(folder))["signatures"]]
    about = {"digest": manifest.digest, "signed_by": signers, "folder": str(folder)}
    output(asdict(manifest) | about, _table(manifest, signers), as_json)


def _own(config: Config, number: int) -> Path:
    folder = config.state.generations / generation.name_of(number)
    if not folder.exists():
        raise CheckpointError(
            f"no generation {number} in {config.state}: `edgecc checkpoint list` shows the "
            "node's; on another machine, pull it first")
    return folder


def _table(manifest: Manifest, signers: list[str]) -> Iterator[str]:
    shape = "×".join(map(str, manifest.node_input["shape"]))
    facts = {
        "generation": manifest.number, "node": manifest.node, "created": when(manifest.created),
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


@checkpoint.command()
@click.argument("number", type=int)
@click.argument("folder", metavar="DIR", type=_folder)
@json_option
@with_config
def export(config: Config, number: int, folder: Path, as_json: bool) -> None:
    """Copy a generation out of this node's own state into DIR, verified; needs no broker."""
    source, keys = _own(config, number), Keys(config.state)
    target = folder / generation.name_of(number)
    if target.exists():
        raise CheckpointError(f"{target} exists already: delete it, or export to another folder")
    generation.load(source, keys.trusted)
    manifest = _copy(source, target, keys)
    keep(folder, keys.chain)  # the public keys, beside the copy
    _print_verified(manifest, target, as_json, public_key=keys.chain.newest.encode().hex())


def _copy(source: Path, target: Path, keys: Keys) -> Manifest:
    """Copy a generation's files, whole or not at all; verified as they were written."""
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in (*FILES, MANIFEST):
        files.write(part / name, (source / name).read_bytes())
    manifest = generation.load(part, keys.trusted).manifest
    part.rename(target)
    return manifest
