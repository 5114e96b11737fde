"""What commands print about a node: plan, status, configuration, its log."""

import json
import time
from typing import Any

import click
import yaml

from edgecc import config as configs
from edgecc import planner
from edgecc.client import Client
from edgecc.config import Config, format_size
from edgecc.errors import NotRunning
from edgecc.reader import Reader
from edgecc.selection import since_seconds
from edgecc.trunk import planned


def plan(config: Config, as_json: bool) -> None:
    """Where memory_budget goes."""
    found, _ = planned(config)
    if as_json:
        _json(found.describe() | {"where": found.where, "total": found.total,
                                  "budget": config.memory_budget, "stem": config.stem})
        return
    for use, size in found.where.items():
        click.echo(f"{use:38} {size / planner.MIB:8.1f} MiB")
    click.echo(f"{'total predicted':38} {found.total / planner.MIB:8.1f} MiB "
               f"of {format_size(config.memory_budget)}")
    if config.grow.blocks and not found.blocks:
        click.echo("no block fits this budget: only the readout learns")
    click.echo(f"stem: {config.stem}")
    widths = ", ".join(f"{block.channels} channels" for block in found.blocks) or "none"
    most = planner.most_classes(found, config.input_spec, config.max_classes)
    click.echo(f"blocks: {widths}; batch {found.batch}; "
               f"{planner.readout_dim(found, config.input_spec)} features; "
               f"at most {most} classes")


def status(config: Config, *, as_json: bool, watch: bool) -> None:
    """The retained messages of the node, once or until interrupted."""
    with Client(config) as client:
        client.subscribe([config.topics / part for part in ("status", "info", "health", "train")])
        said = _gather(client, config, {})
        if "status" not in said:
            raise NotRunning(f"no edgecc was ever seen on {config.topics.root}")
        _print_status(said, as_json)
        while watch:
            message = client.next_message(60.0)
            if message is not None:
                _note(said, config, message.topic, message.payload)
                _print_status(said, as_json)
    if said["status"] != "online":
        raise NotRunning(f"{config.node} is {said['status']}")


def check(config: Config) -> None:
    found, _ = planned(config)
    click.echo(f"ok: node {config.node}, {len(found.blocks)} blocks within "
               f"{format_size(config.memory_budget)}, state in {config.state}")
    if config.grow.blocks and not found.blocks:
        click.echo("but no block fits memory_budget: only the readout will learn")


def config(found: Config, as_json: bool) -> None:
    shown = configs.show(found)
    if as_json:
        _json(shown)
    else:
        click.echo(yaml.safe_dump(shown, sort_keys=False), nl=False)


def samples(
    config: Config, *, limit: int, source: str | None, since: str | None, as_json: bool
) -> None:
    start = None if since is None else since_seconds(since)
    rows = _log(config).samples(limit, source=source, since=start)
    if as_json:
        _json(rows)
        return
    for row in rows:
        held = "held out" if row["held_out"] else ""
        click.echo(f"{_when(row['ts'])}  {row['source']:12} {row['label'] or '-':16} {held:8} "
                   f"{row['id']}")


def quarantine(config: Config, limit: int, as_json: bool) -> None:
    rows = _log(config).quarantined(limit)
    if as_json:
        _json(rows)
        return
    for row in rows:
        click.echo(f"{row['seq']:6}  {_when(row['ts'])}  {row['topic']}  "
                   f"{row['bytes']} B: {row['reason']}")


def _log(config: Config) -> Reader:
    path = config.state / "log.sqlite"
    if not path.exists():
        raise NotRunning(f"no log at {path}: run this on the node, with its configuration")
    return Reader(path)


def _gather(client: Client, config: Config, said: dict[str, Any]) -> dict[str, Any]:
    """Retained messages come at once; a second of silence ends them."""
    while (message := client.next_message(1.0)) is not None and len(said) < 4:
        _note(said, config, message.topic, message.payload)
    return said


def _note(said: dict[str, Any], config: Config, topic: str, payload: bytes) -> None:
    name = topic.removeprefix(config.topics.root + "/")
    said[name] = payload.decode() if name == "status" else json.loads(payload)


def _print_status(said: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _json(said)
        return
    health, info, train = (said.get(name, {}) for name in ("health", "info", "train"))
    memory, log, past = (health.get(name, {}) for name in ("memory", "log", "prequential"))
    click.echo(f"{info.get('node', '?')}: {said['status']}, generation "
               f"{health.get('generation', '?')}, {len(health.get('classes', []))} classes")
    click.echo(f"  samples {log.get('samples', 0)}, label events {log.get('labels', 0)}, "
               f"quarantined {log.get('quarantined', 0)}, backlog {health.get('backlog', 0)}")
    if past.get("window") is not None:
        click.echo(f"  right before learning: {past['window']:.3f} of the last 1000 labelled, "
                   f"{past['cumulative']:.3f} of all {past['labelled_predictions']}")
    if train:
        place = f" {train['step']}/{train['steps']}" if "step" in train else ""
        click.echo(f"  learner: {train['phase']}, growth {train['growth']}, "
                   f"block {train.get('block', '-')}{place}")
    if memory:
        click.echo(f"  memory peak {format_size(memory['peak'])} of "
                   f"{format_size(memory['budget'])}")


def _when(ts: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ts))


def _json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
