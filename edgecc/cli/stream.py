"""`edgecc stream` and `edgecc label`."""

import hashlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edgecc.capture import Item, open_source
from edgecc.capture.dataset import find_images
from edgecc.capture.producer import Stream, journal_for
from edgecc.config.schema import Config
from edgecc.errors import ConfigError, MessageError, NotRunning
from edgecc.mqtt.client import Client
from edgecc.protocol.messages import check_label, to_json
from edgecc.protocol.topics import check_id


def stream(
    config: Config, path: str, as_json: bool, *, source: str, rate: float | None,
    limit: int | None, unlabelled: bool, window: int | None, step: int | None,
    label_column: str | None,
) -> None:
    """Send a whole source and print what the node did with it."""
    check_id(source, "--source")
    found = open_source(
        path, shape=config.input.shape, window=window, step=step, label_column=label_column
    )
    total = min(found.total, limit) if found.total is not None and limit else found.total or limit
    items: Iterator[Item] = itertools.islice(found.items, limit)
    if _named_by_file(path):
        items = (_with_content(item) for item in items)
    journal = None if path == "-" else journal_for(
        config.state.streams, config.topics.root, source, Path(path).resolve(), limit
    )
    with Client(config) as client, _progress(total) as advance:
        if client.retained(config.topics / "status") == b"offline":
            raise NotRunning(f"{config.node} is offline: run `edgecc start` first")
        sending = Stream(client, config.topics, source, journal=journal, rate=rate)
        sending.run(_without_labels(items) if unlabelled else iter(items), advance)
    _print(sending, as_json)


def label(config: Config, sample_id: str, label: str, source: str) -> str:
    """Send one label and wait for what the node says to it."""
    check_id(source, "--source")
    try:
        check_label(label)
    except MessageError as error:
        raise ConfigError(str(error)) from error
    with Client(config) as client:
        client.subscribe([config.topics.out(source, "receipt")])
        client.publish(config.topics.label(source), to_json({"id": sample_id, "label": label}))
        deadline = time.monotonic() + 10
        while (left := deadline - time.monotonic()) > 0:
            message = client.next_message(left)
            for receipt in json.loads(message.payload) if message else []:
                if receipt["id"] == sample_id and "label" in receipt:
                    return _told(receipt)
    raise NotRunning(f"no edgecc answers for {config.topics.root}; is `edgecc start` running?")


def _told(receipt: dict[str, Any]) -> str:
    return {
        "stored": f"{receipt['id']} is {receipt['label']}",
        "duplicate": f"{receipt['id']} already was {receipt['label']}",
        "pending": f"no sample {receipt['id']} yet; the label waits for it",
        "rejected": f"{receipt['id']}: {receipt.get('reason')}",
    }[receipt["status"]]


def _named_by_file(path: str) -> bool:
    """True where ids are file names, which tomorrow's files, or another camera's, may share."""
    if Path(path).is_dir():
        return find_images(Path(path)) is None
    return path.lower().endswith(".csv")


def _with_content(item: Item) -> Item:
    return replace(item, id=f"{item.id}~{hashlib.sha256(item.payload).hexdigest()[:8]}")


def _without_labels(items: Iterator[Item]) -> Iterator[Item]:
    return (replace(item, label=None) for item in items)


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, silence elsewhere."""
    hidden = not (total and sys.stderr.isatty())
    with click.progressbar(
        length=total or 0, label="receipts", file=sys.stderr, show_pos=True, hidden=hidden
    ) as bar:
        yield bar.update


def _print(sending: Stream, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**sending.counts, "reasons": dict(sending.reasons)}))
        return
    click.echo(", ".join(f"{name} {count}" for name, count in sending.counts.items()) or "nothing")
    for reason, count in sending.reasons.most_common(5):
        click.echo(f"  rejected {count}: {reason}", err=True)
