"""What an operator does from anywhere, over MQTT: generations, sources, quarantine."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from edgecc.checkpoint import generation, transfer
from edgecc.checkpoint.manifest import Manifest
from edgecc.checkpoint.pinned_keys import KEY_FILE, keys_for_folder, pin
from edgecc.checkpoint.signing import key_id
from edgecc.config.schema import Config
from edgecc.config.units import format_size
from edgecc.errors import CheckpointError, EdgeccError, NotRunning
from edgecc.mqtt.client import Client

TRIAL_PATIENCE = 900.0  # seconds in which a node learns its log by another trunk


def list_offers(config: Config, as_json: bool) -> None:
    with Client(config) as client:
        offers = _offers(client, config)
    if as_json:
        click.echo(json.dumps(offers, indent=2))
        return
    for offer in offers:
        held_out = "-" if offer["held_out"] is None else f"{offer['held_out']:.4f}"
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(offer["created"]))
        click.echo(f"{offer['generation']:6}  {when}  {offer['blocks']} blocks  "
                   f"{offer['classes']:4} classes  held-out {held_out}  "
                   f"{format_size(offer['bytes']):>9}  {offer['digest'][:12]}"
                   f"{'  serving' if offer['serving'] else ''}")


def pull(
    config: Config, number: int | None, folder: Path, key: str | None, as_json: bool
) -> None:
    """Fetch, verify, and print where it is."""
    with Client(config) as client:
        offers = _offers(client, config)
        if number is None:
            number = _newest(offers, folder)
        info = client.retained(config.topics / "info")
        trusted, new = pin(folder, info, key)
        for one in new:
            click.echo(f"trusting {one.encode().hex()} (fingerprint {key_id(one)}) for this node "
                       f"from now on, kept in {folder / KEY_FILE}", err=True)
        found = transfer.pull(
            client, config.topics, number, folder=folder, trusted=trusted, progress=_progress
        )
    _print(found, folder / generation.name_of(number), as_json)


def verify(folder: Path, key: str | None, as_json: bool) -> None:
    _print(generation.load(folder, keys_for_folder(folder, key)).manifest, folder, as_json)


def command(config: Config, verb: str, args: dict[str, Any]) -> Any:
    with Client(config) as client:
        return client.command(verb, args, timeout=60.0)


def push(config: Config, folder: Path, *, force: bool) -> None:
    with Client(config) as client:
        _check_online(client, config)
        found = transfer.push(client, config.topics, folder, force=force, timeout=TRIAL_PATIENCE,
                              progress=_progress)
    _print_trial(found)


def rollback(config: Config, number: int, *, force: bool) -> None:
    with Client(config) as client:
        _check_online(client, config)
        found = client.command(
            "rollback", {"generation": number, "force": force}, timeout=TRIAL_PATIENCE)
    _print_trial(found)


def _check_online(client: Client, config: Config) -> None:
    """So that nobody waits long for a node that is not there."""
    if client.retained(config.topics / "status") != b"online":
        raise NotRunning(f"{config.topics.root} is not online: run `edgecc start` there")


def _print_trial(found: dict[str, Any]) -> None:
    """What a node found out about a generation; an error where that serves no better."""
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    if not found["swapped"]:
        raise EdgeccError(
            f"of {found['held_rows']} held-out samples it gets {found['held_out']:.1%} right, what "
            f"serves {found['held_out_serving']:.1%}: not swapped; --force swaps all the same")


def sources(config: Config, as_json: bool) -> None:
    """One line a source that has given labels."""
    found = command(config, "sources", {})
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for one in found:
        standing = "distrusted" if one["distrusted"] else "trusted"
        click.echo(f"{one['source']:16} {standing}{' by hand' if one['by_hand'] else ''}  "
                   f"{one['misses']} of {one['labels']} labels not as predicted; of the "
                   f"{one['compared']} compared {one['missed']}, others would "
                   f"{one['expected']:.0f}; {one['aside']} aside")


def retry(config: Config, seqs: tuple[int, ...], everything: bool, as_json: bool) -> None:
    """What became of each message that was in quarantine."""
    if bool(seqs) == everything:
        raise click.UsageError("name messages by SEQ (`edgecc samples quarantine`), or --all")
    with Client(config) as client:
        if client.retained(config.topics / "status") == b"offline":
            raise NotRunning(f"{config.node} is offline, and only its daemon takes messages in: "
                             "run `edgecc start` there, then this again")
        found = [one for part in _retried(client, seqs) for one in part]
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for one in found:
        click.echo(f"{one['seq']:6}  " + (one["reason"] or "taken in"))


def _retried(client: Client, seqs: tuple[int, ...]) -> Iterator[list[dict[str, Any]]]:
    """The node's answers: one a number, or all from the first to the last."""
    for seq in seqs:
        yield client.command("retry", {"seq": seq}, timeout=60.0)
    after = 0
    while not seqs and (part := client.command("retry", {"after": after}, timeout=60.0)):
        after = part[-1]["seq"]
        yield part


def _offers(client: Client, config: Config) -> list[dict[str, Any]]:
    payload = client.retained(config.topics / "checkpoint/index")
    if payload is None:
        raise NotRunning(f"{config.topics.root} offers no checkpoints; is `edgecc start` running?")
    offers: list[dict[str, Any]] = json.loads(payload)
    return offers


def _newest(offers: list[dict[str, Any]], folder: Path) -> int:
    """The newest on offer; going back behind what was pulled must be asked for."""
    offered = max((int(offer["generation"]) for offer in offers), default=-1)
    pulled = max(generation.numbers(folder), default=-1) if folder.exists() else -1
    if offered < pulled:
        raise CheckpointError(f"generation {offered} is the newest on offer, {folder} has "
                              f"{pulled}: `edgecc checkpoint pull {offered}` goes back")
    return offered


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{format_size(done)} of {format_size(total)}   ", err=True, nl=done >= total)


def _print(manifest: Manifest, folder: Path, as_json: bool) -> None:
    size = sum(file.size for file in manifest.files.values())
    about: dict[str, Any] = {
        "folder": str(folder), "generation": manifest.number, "digest": manifest.digest,
        "parent": manifest.parent, "node": manifest.node, "classes": manifest.classes,
        "blocks": manifest.blocks, "metrics": dict(manifest.metrics),
        "bytes": size,
    }
    if as_json:
        click.echo(json.dumps(about, indent=2))
    else:
        click.echo(f"{folder}: generation {manifest.number} of {manifest.node}, verified "
                   f"({format_size(size)}, {len(manifest.classes)} classes, "
                   f"digest {manifest.digest[:12]})")
