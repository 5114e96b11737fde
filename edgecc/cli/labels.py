"""`edgecc label` gives a label; `edgecc sources` shows who labels and whom the node trusts."""

import json
import time
from typing import Any

import click

from edgecc.cli.common import json_option, output, print_json, with_config
from edgecc.config.loading import configuration
from edgecc.config.schema import Config
from edgecc.errors import ConfigError, MessageError, NotRunning
from edgecc.mqtt.client import Client
from edgecc.protocol.messages import check_label, to_json
from edgecc.protocol.topics import check_id

_PATIENCE = 10.0  # seconds


@click.command()
@click.argument("sample_id", metavar="ID")
@click.argument("label")
@click.option("--source", default="stream", show_default=True, help="Who gives the label.")
@with_config
def label(config: Config, sample_id: str, label: str, source: str) -> None:
    """Give a stored sample its label."""
    check_id(source, "--source")
    try:
        check_label(label)
    except MessageError as error:
        raise ConfigError(str(error)) from error
    with Client(config) as client:
        client.subscribe([config.topics.out(source, "receipt")])
        client.publish(config.topics.label(source), to_json({"id": sample_id, "label": label}))
        click.echo(_outcome(_receipt(client, config, sample_id), source))


def _receipt(client: Client, config: Config, sample_id: str) -> dict[str, Any]:
    """The node's receipt for a label of this sample."""
    deadline = time.monotonic() + _PATIENCE
    while (left := deadline - time.monotonic()) > 0:
        message = client.next_message(left)
        receipts: list[dict[str, Any]] = json.loads(message.payload) if message else []
        for receipt in receipts:
            if receipt["id"] == sample_id and "label" in receipt:
                return receipt
    raise NotRunning(f"no edgecc answers for {config.topics.root}; is `edgecc start` running?")


def _outcome(receipt: dict[str, Any], source: str) -> str:
    sample_id, label = receipt["id"], receipt["label"]
    return {
        "stored": f"{sample_id} is {label}",
        "duplicate": f"{sample_id} already was {label}",
        "pending": f"no sample {sample_id} yet; the label waits for it",
        "distrusted": f"{sample_id}: label kept, but not learnt: {source} is a distrusted source",
    }.get(receipt["status"], f"{sample_id}: {receipt.get('reason')}")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def sources(ctx: click.Context, as_json: bool) -> None:
    """Show who labels, and whom the node trusts."""
    if ctx.invoked_subcommand is not None:
        return
    with Client(configuration(ctx.obj)) as client:
        rows = client.command("sources", {}, timeout=60.0)
    output(rows, (
        f"{row['source']:16} {'distrusted' if row['distrusted'] else 'trusted'}"
        f"{' by hand' if row['by_hand'] else ''}  {row['misses']} of {row['labels']} labels "
        f"differ from the prediction; of {row['compared']} compared {row['missed']}, "
        f"{row['expected']:.0f} expected; {row['not_learnt']} not learnt" for row in rows), as_json)


@sources.command()
@click.argument("source")
def trust(source: str) -> None:
    """Learn SOURCE's labels from now on, and those it gave before, whatever the figures say."""
    _decide(source, trusted=True)


@sources.command()
@click.argument("source")
def distrust(source: str) -> None:
    """Unlearn SOURCE's labels, and learn none from now on."""
    _decide(source, trusted=False)


@with_config
def _decide(config: Config, source: str, *, trusted: bool) -> None:
    with Client(config) as client:
        args = {"source": source, "trusted": trusted}
        print_json(client.command("trust", args, timeout=60.0))
