"""`edgecc retained ...`"""

from pathlib import Path

import click

from edgecc.cli.common import configuration, lazily


@click.group()
def retained() -> None:
    """What this node has left on the broker."""


@retained.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def clear(path: Path | None, yes: bool, as_json: bool) -> None:
    """Remove this node's retained topics from the broker, once it is out of service."""
    lazily("edgecc.cli.clear_retained", "clear")(configuration(path), yes=yes, as_json=as_json)
