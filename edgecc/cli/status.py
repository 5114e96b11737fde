"""What commands print about a node: plan, status, configuration, its log."""

import json
import math
import time
from typing import Any

import click
import yaml

from edgecc.config import schema as configs
from edgecc.config.schema import Config
from edgecc.config.units import format_size
from edgecc.errors import NotRunning
from edgecc.mqtt.client import Client
from edgecc.plan import budget, planner
from edgecc.plan import fallback as steps
from edgecc.plan.budget import Budget, planned
from edgecc.plan.costs import MIB, needed
from edgecc.plan.plan import Plan, most_classes, readout_dim
from edgecc.protocol.selection import since_seconds
from edgecc.store.reader import Reader


def plan(config: Config, as_json: bool) -> None:
    """Where memory_budget goes, and what the next smaller and larger ones would buy."""
    found, _ = planned(config)
    allowed = budget.of(config)
    tried = planner.plans(
        config.input_spec, max_payload=config.mqtt.max_payload, blocks=config.grow.blocks,
        costs=allowed.costs, stem=found.stem_map, classes=config.max_classes,
        backend=config.grow.backend)
    less, more = steps.beside(tried, found, allowed.costs)
    if as_json:
        _json(found.describe() | {
            "where": found.where, "total": found.total, "backend": found.backend,
            "budget": allowed.size, "limit": allowed.limit and str(allowed.limit),
            "costs": str(allowed.table or "shipped"), "stem": config.stem,
            "buys": _bought(found, config, allowed),
            "smaller": _bought(less, config, allowed), "larger": _bought(more, config, allowed)})
        return
    for use, size in found.where.items():
        click.echo(f"{use:42} {size / MIB:8.1f} MiB")
    click.echo(f"{'total predicted':42} {found.total / MIB:8.1f} MiB "
               f"of {format_size(allowed.size)}")
    if allowed.limit is not None:
        click.echo(f"memory_budget is {format_size(config.memory_budget)}, but {allowed.limit} "
                   f"allows no more than {format_size(allowed.size)}")
    if config.grow.blocks and not found.blocks:
        click.echo("no block fits this budget: only the readout learns")
    measured = allowed.table or "shipped, of x86-64; `edgecc bench costs` measures this device"
    click.echo(f"costs: {measured}\nstem: {config.stem}")
    named = {"this budget": found, "the next smaller": less, "the next larger": more}
    for name, one in named.items():
        click.echo(_buys(name, _bought(one, config, allowed)))


def _bought(one: Plan | None, config: Config, allowed: Budget) -> dict[str, Any] | None:
    """The least budget that has room for a plan, and what that buys."""
    if one is None:
        return None
    spec = config.input_spec
    return {
        "budget": math.ceil(needed(one, allowed.costs) / MIB) * MIB,
        "channels": [block.channels for block in one.blocks], "backend": one.backend,
        "batch": one.batch, "features": readout_dim(one, spec),
        "classes": most_classes(one, spec, config.max_classes),
        "samples_in_flight": one.receive_maximum,
    }


def _buys(name: str, bought: dict[str, Any] | None) -> str:
    if bought is None:
        return f"{name}: none"
    widths = ", ".join(str(channels) for channels in bought["channels"])
    blocks = f"blocks of {widths} channels with {bought['backend']}, batch {bought['batch']}" if (
        widths) else "no blocks"
    return (f"{name}, from {format_size(bought['budget'])}: {blocks}; {bought['features']} "
            f"features, at most {bought['classes']} classes, {bought['samples_in_flight']} samples "
            "in flight")


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
    path = config.state.log
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
    if waits := health.get("waits"):
        click.echo(f"  learning waits since {_when(waits['since'])}: {waits['text']}")
    if energy := health.get("energy"):
        each = energy["joules_per_sample"]
        click.echo(f"  energy since the start {energy['joules']:.0f} J, of {energy['of']}"
                   + ("" if each is None else f": {each:.3g} J a sample"))
    if memory:
        click.echo(f"  memory peak {format_size(memory['peak'])} of "
                   f"{format_size(memory['budget'])}")


def _when(ts: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ts))


def _json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
