"""`edgecc retained clear`: a node taken out of service leaves nothing on the broker.

Clears the topics that the broker shows and those that the node's state knows: a node's own user
may write its topics without being allowed to read them.
"""

from collections.abc import Iterator
from contextlib import nullcontext

import click

from edgecc.checkpoint import generation
from edgecc.cli.common import json_option, output, with_config, yes_option
from edgecc.config.schema import Config
from edgecc.errors import AuthError, EdgeccError
from edgecc.host.lock import locked
from edgecc.mqtt.client import Client
from edgecc.store.reader import Reader

_SILENCE = 1.0  # seconds; retained messages come at once after the subscription
_STOP = "stop its daemon first, for good, then run this again"
_OTHERS = ("in", "command")  # below a node's root, but published to it


@click.group()
def retained() -> None:
    """Manage the messages that the broker retains for this node."""


@retained.command()
@yes_option
@json_option
@with_config
def clear(config: Config, yes: bool, as_json: bool) -> None:
    """Remove this node's retained topics from the broker, once it is out of service."""
    state = config.state
    with (
        locked(state.lock, _STOP) if state.folder.exists() else nullcontext(),
        Client(config) as client,
    ):
        topics = _clear(client, config, yes=yes)
    output(topics, [f"{config.topics.root}: {len(topics)} retained topics cleared"], as_json)


def _clear(client: Client, config: Config, *, yes: bool) -> list[str]:
    """Ask, clear and check; the topics cleared."""
    shown = _shown(client, config)
    if shown.get(config.topics / "status") == b"online":
        raise EdgeccError(f"{config.node} is online and would publish again: {_STOP}")
    topics = sorted({*shown, *_known(config)})
    if topics and not yes:
        click.echo("\n".join(topics), err=True)
        click.confirm(f"Remove these {len(topics)} retained topics from the broker?",
                      abort=True, err=True)
    for topic in topics:
        client.arrived(client.publish(topic, b"", retain=True), wait=True)
    if left := _shown(client, config):
        raise AuthError(f"the broker still shows {', '.join(sorted(left))}: run this as the "
                        "node's own user, who may write there")
    return topics


def _shown(client: Client, config: Config) -> dict[str, bytes]:
    """Retained messages that the node has published, by topic."""
    everything = [config.topics / "#"]
    client.subscribe(everything)
    messages = {}
    while (message := client.next_message(_SILENCE)) is not None:
        level = config.topics.levels(message.topic)[0]
        if message.retain and level not in _OTHERS:
            messages[message.topic] = message.payload
    client.unsubscribe(everything)
    return messages


def _known(config: Config) -> Iterator[str]:
    """Topics that this node has published, by its state; none where the state is elsewhere."""
    state, topics = config.state, config.topics
    if not state.log.exists():
        return
    yield from (topics / name for name in ("status", "info", "health", "train", "checkpoint/index"))
    folder = state.generations
    newest = max(generation.numbers(folder), default=-1) if folder.exists() else -1
    yield from (topics.manifest(number) for number in range(newest + 1))
    log = Reader(state.log)
    yield from (topics.out(source, "state") for source in log.sources())
    log.close()
