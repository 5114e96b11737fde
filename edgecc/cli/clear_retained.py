"""`edgecc retained clear`: a node that is taken out of service leaves nothing on the broker.

Its topics are those that the broker shows, and those that its state knows of: a node's own user may
write them, and need not be allowed to read them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import click

from edgecc.checkpoint import generation
from edgecc.config.schema import Config
from edgecc.errors import AuthError, EdgeccError
from edgecc.host.lock import locked
from edgecc.mqtt.client import Client
from edgecc.store.reader import Reader

_SILENCE = 1.0  # seconds; what is retained comes at once after the subscription
_STOP = "stop its daemon first, for good, then run this again"
_OTHERS = ("in", "command")  # below a node's root, but published to it


def clear(config: Config, *, yes: bool, as_json: bool) -> None:
    """Print the topics that were cleared."""
    with _stopped(config), Client(config) as client:
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
            raise AuthError(f"the broker still shows {', '.join(sorted(left))}: run this with the "
                            "node's own user, who may write there")
    if as_json:
        click.echo(json.dumps(topics, indent=2))
    else:
        click.echo(f"{config.topics.root}: {len(topics)} retained topics cleared")


@contextmanager
def _stopped(config: Config) -> Iterator[None]:
    """No daemon starts meanwhile, where the state is here."""
    with locked(config.state.lock, _STOP) if config.state.folder.exists() else nullcontext():
        yield


def _shown(client: Client, config: Config) -> dict[str, bytes]:
    """Retained messages that the node has published, by topic."""
    everything = [config.topics / "#"]
    client.subscribe(everything)
    found = {}
    while (message := client.next_message(_SILENCE)) is not None:
        level = config.topics.below_root(message.topic)[0]
        if message.retain and level not in _OTHERS:
            found[message.topic] = message.payload
    client.unsubscribe(everything)
    return found


def _known(config: Config) -> Iterator[str]:
    """Topics that this node has published, by its state; none where the state is elsewhere."""
    path, folder = config.state.log, config.state.generations
    if not path.exists():
        return
    yield from (config.topics / name
                for name in ("status", "info", "health", "train", "checkpoint/index"))
    newest = max(generation.numbers(folder), default=-1) if folder.exists() else -1
    yield from (config.topics.manifest(number) for number in range(newest + 1))
    log = Reader(path)
    yield from (config.topics.out(source, "state") for source in log.sources())
    log.close()
