"""`edgecc stream`: samples from files or standard input, sent until each has its receipt."""

import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from edgecc.capture.dataset import find_images
from edgecc.capture.item import Item
from edgecc.capture.open import open_items
from edgecc.capture.producer import Stream, journal_for
from edgecc.cli.common import json_option, print_json, refuse_offline, with_config
from edgecc.config.schema import Config
from edgecc.mqtt.client import Client
from edgecc.protocol.topics import check_id


@click.command()
@click.argument("path")
@click.option("--source", default="stream", show_default=True, help="Name of this producer.")
@click.option("--rate", type=float, help="Samples a second; else as fast as stored.")
@click.option("--limit", type=int, help="Stop after this many samples.")
@click.option("--unlabelled", is_flag=True, help="Send no labels.")
@click.option("--window", type=int, help="CSV: rows in a window.")
@click.option("--step", type=int, help="CSV: rows between windows.")
@click.option("--label-column", help="CSV: the column with the label.")
@json_option
@with_config
def stream(
    config: Config, path: str, source: str, rate: float | None, limit: int | None,
    unlabelled: bool, window: int | None, step: int | None, label_column: str | None,
    as_json: bool,
) -> None:
    """Publish samples and wait for the node's receipts.

    PATH is a folder of class folders, a folder of IDX files, a .csv of sensor readings, a .jsonl
    file, 'digits', or '-' for JSON lines on standard input.
    """
    check_id(source, "--source")
    opened = open_items(
        path, shape=config.input.shape, window=window, step=step, label_column=label_column)
    total = min((n for n in (opened.total, limit) if n is not None), default=None)
    items: Iterator[Item] = itertools.islice(opened, limit)
    if _ids_are_file_names(path):
        items = (_with_content_id(item) for item in items)
    if unlabelled:
        items = (replace(item, label=None) for item in items)
    journal = None if path == "-" else journal_for(
        config.state.streams, config.topics.root, source, Path(path).resolve(), limit)
    with Client(config) as client, _progress(total) as advance:
        refuse_offline(client, config)
        sending = Stream(client, config.topics, source, journal=journal, rate=rate)
        sending.run(items, advance)
    _print(sending, as_json)


def _ids_are_file_names(path: str) -> bool:
    """True where tomorrow's files, or another camera's, may have the same ids."""
    if Path(path).is_dir():
        return find_images(Path(path)) is None
    return path.lower().endswith(".csv")


def _with_content_id(item: Item) -> Item:
    return replace(item, id=f"{item.id}~{hashlib.sha256(item.payload).hexdigest()[:8]}")


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
        print_json({**sending.counts, "reasons": dict(sending.reasons)})
        return
    click.echo(", ".join(f"{name} {count}" for name, count in sending.counts.items()) or "nothing")
    for reason, count in sending.reasons.most_common(5):
        click.echo(f"  rejected {count}: {reason}", err=True)
