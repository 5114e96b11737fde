"""`edgecc plan` shows what memory_budget buys; `edgecc status` shows what the node publishes."""

import json
import math
from collections.abc import Iterator
from typing import Any

import click

from edgecc.cli.common import json_option, output, when, with_config
from edgecc.config.schema import Config
from edgecc.config.units import format_size
from edgecc.errors import NotRunning
from edgecc.mqtt.client import Client
from edgecc.plan import budget, planner
from edgecc.plan.budget import Budget, planned
from edgecc.plan.costs import MIB, needed
from edgecc.plan.plan import Plan, most_classes, readout_dim

_RETAINED = ("status", "info", "health", "train")
_SILENCE = 1.0  # seconds; retained messages come at once after the subscription


@click.command()
@json_option
@with_config
def plan(config: Config, as_json: bool) -> None:
    """Show how memory_budget would be spent.

    Where every byte of it goes, and what the next smaller and larger budgets would buy.
    """
    chosen, stem = planned(config)
    allowed = budget.of(config)
    tried = planner.plans(
        config.input, max_payload=config.mqtt.max_payload, blocks=config.grow.blocks,
        costs=allowed.costs, stem=chosen.stem_map, whole=bool(chosen.stem_kernels),
        classes=config.max_classes, backend=config.grow.backend)
    less, more = planner.neighbours(tried, chosen, allowed.costs)
    bought = {name: _bought(one, config, allowed)
              for name, one in (("buys", chosen), ("smaller", less), ("larger", more))}
    output(chosen.describe() | {
        "where": chosen.where, "total": chosen.total, "backend": chosen.backend,
        "budget": allowed.size, "limit": allowed.limit and str(allowed.limit),
        "costs": str(allowed.table or "shipped"), "stem": config.stem,
    } | bought, [
        budget.describe_stem(config, chosen, stem), *_uses(chosen, config, allowed),
        _buys("this budget", bought["buys"]),
        _buys("the next smaller", bought["smaller"]), _buys("the next larger", bought["larger"]),
    ], as_json)


def _bought(one: Plan | None, config: Config, allowed: Budget) -> dict[str, Any] | None:
    """The least budget that has room for a plan, and what that buys."""
    if one is None:
        return None
    spec = config.input
    return {
        "budget": math.ceil(needed(one, allowed.costs) / MIB) * MIB,
        "channels": [block.channels for block in one.blocks], "backend": one.backend,
        "batch": one.batch, "features": readout_dim(one, spec),
        "classes": most_classes(one, spec, config.max_classes),
        "samples_in_flight": one.receive_maximum,
    }


def _uses(chosen: Plan, config: Config, allowed: Budget) -> Iterator[str]:
    for use, size in chosen.where.items():
        yield f"{use:42} {size / MIB:8.1f} MiB"
    yield (f"{'total predicted':42} {chosen.total / MIB:8.1f} MiB of "
           f"{format_size(allowed.size)}")
    if allowed.limit is not None:
        yield (f"memory_budget is {format_size(config.memory_budget)}, but {allowed.limit} "
               f"allows no more than {format_size(allowed.size)}")
    if config.grow.blocks and not chosen.blocks:
        yield "no block fits this budget: only the readout learns"
    yield (f"costs: {allowed.table or 'shipped, of x86-64'}"
           f"{'' if allowed.table else '; `edgecc bench costs` measures this device'}")


def _buys(name: str, bought: dict[str, Any] | None) -> str:
    if bought is None:
        return f"{name}: none"
    widths = ", ".join(map(str, bought["channels"]))
    blocks = (f"blocks of {widths} channels with {bought['backend']}, batch {bought['batch']}"
              if widths else "no blocks")
    return (f"{name}, from {format_size(bought['budget'])}: {blocks}; {bought['features']} "
            f"features, at most {bought['classes']} classes, {bought['samples_in_flight']} samples "
            "in flight")


@click.command()
@json_option
@click.option("--watch", is_flag=True, help="Follow until interrupted.")
@with_config
def status(config: Config, as_json: bool, watch: bool) -> None:
    """Show the node's status."""
    node: dict[str, Any] = {}  # its retained messages by the last level of their topics
    with Client(config) as client:
        client.subscribe([config.topics / name for name in _RETAINED])
        while len(node) < len(_RETAINED) and _received(client, config, node, _SILENCE):
            pass
        if "status" not in node:
            raise NotRunning(f"no edgecc was ever seen on {config.topics.root}")
        output(node, described(node), as_json)
        while watch:
            if _received(client, config, node, 60.0):
                output(node, described(node), as_json)
    if node["status"] != "online":
        raise NotRunning(f"{config.node} is {node['status']}")


def _received(client: Client, config: Config, node: dict[str, Any], timeout: float) -> bool:
    """Put the next message into `node`; False where none comes in time."""
    message = client.next_message(timeout)
    if message is None:
        return False
    name = message.topic.removeprefix(config.topics.root + "/")
    node[name] = message.payload.decode() if name == "status" else json.loads(message.payload)
    return True


def described(node: dict[str, Any]) -> Iterator[str]:
    """Lines about a node, by its retained messages; what is not known yet is left out."""
    health, info, train = (node.get(name, {}) for name in ("health", "info", "train"))
    log = health.get("log", {})
    yield (f"{info.get('node', '?')}: {node['status']}, generation "
           f"{health.get('generation', '?')}, {len(health.get('classes', []))} classes")
    yield (f"  samples {log.get('samples', 0)}, label events {log.get('labels', 0)}, "
           f"quarantined {log.get('quarantined', 0)}, lag {health.get('lag', 0)}")
    yield from (f"  {line}" for line in _figures(health, train))


def _figures(health: dict[str, Any], train: dict[str, Any]) -> Iterator[str]:
    accuracy, memory = (health.get(name, {}) for name in ("prequential", "memory"))
    if accuracy.get("window") is not None:
        yield (f"prequential accuracy: {accuracy['window']:.3f} of the last 1000 labelled, "
               f"{accuracy['cumulative']:.3f} of all {accuracy['labelled_predictions']}")
    if held_out := health.get("held_out"):
        yield "held-out accuracy when last measured: " + ", ".join(
            f"{value:.3f} {name.replace('_', ' ')}" for name, value in held_out.items())
    if train:
        block = f", block {train['block']} of {train['blocks']}" if "block" in train else (
            f", {train['blocks']} blocks" if "blocks" in train else "")
        step = f", step {train['step']} of {train['steps']}" if "step" in train else ""
        yield f"learner: {train['phase']}, growth {train['growth']}{block}{step}"
    if pause := health.get("training_paused"):
        yield f"training paused since {when(pause['since'])}: {pause['text']}"
    if energy := health.get("energy"):
        each = energy["joules_per_sample"]
        yield (f"energy since the start {energy['joules']:.0f} J, of {energy['of']}"
               + ("" if each is None else f": {each:.3g} J a sample"))
    if memory:
        yield f"memory peak {format_size(memory['peak'])} of {format_size(memory['budget'])}"
