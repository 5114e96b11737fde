"""`edgecc keys ...`"""

from pathlib import Path

import click

from edgecc.cli.common import configuration, lazily


@click.group()
def keys() -> None:
    """This node's signing keys: show them, replace the one that signs, revoke an old one."""


@keys.command()
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def show(path: Path | None, as_json: bool) -> None:
    """Public key, fingerprint, since when, and whether it still counts; oldest first."""
    lazily("edgecc.cli.node_keys", "show")(configuration(path), as_json)


@keys.command()
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def new(path: Path | None, as_json: bool) -> None:
    """Make the first key before the first start, to note its fingerprint down."""
    lazily("edgecc.cli.node_keys", "new")(configuration(path), as_json)


@keys.command()
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def rotate(path: Path | None, as_json: bool) -> None:
    """Sign with a new key from now on; what the old one has signed stays trusted."""
    lazily("edgecc.cli.node_keys", "rotate")(configuration(path), as_json)


@keys.command()
@click.argument("fingerprint")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def revoke(path: Path | None, fingerprint: str, as_json: bool) -> None:
    """Trust nothing any more that an old key has signed; own generations are signed anew."""
    lazily("edgecc.cli.node_keys", "revoke")(configuration(path), fingerprint, as_json)
