"""`edgecc checkpoint ...`"""

from pathlib import Path

import click

from edgecc.cli.common import configuration, lazily, print_json


@click.group()
def checkpoint() -> None:
    """List, fetch, verify, look into, copy and roll back what the node has learnt."""


@checkpoint.command("list")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def list_checkpoints(path: Path | None, as_json: bool) -> None:
    """Generations that the node offers."""
    lazily("edgecc.cli.remote", "list_offers")(configuration(path), as_json)


@checkpoint.command()
@click.argument("number", type=int, required=False)
@click.option("--to", "folder", type=click.Path(path_type=Path), default=Path("checkpoints"),
              show_default=True)
@click.option("--key", default=None, help="Public key (hex) that must have signed it; else the "
              "key this node showed first.")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def pull(
    path: Path | None, number: int | None, folder: Path, key: str | None, as_json: bool
) -> None:
    """Fetch a generation (default: the newest) over MQTT and verify it."""
    lazily("edgecc.cli.remote", "pull")(configuration(path), number, folder, key, as_json)


@checkpoint.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--key", default=None, help="Public key (hex) that must have signed it.")
@click.option("--json", "as_json", is_flag=True)
def verify(folder: Path, key: str | None, as_json: bool) -> None:
    """Check signature, digests, shapes and values of a checkpoint's folder."""
    lazily("edgecc.cli.remote", "verify")(folder, key, as_json)


@checkpoint.command()
@click.pass_obj
def save(path: Path | None) -> None:
    """Have the node save its live readout as a new generation."""
    print_json(lazily("edgecc.cli.remote", "command")(configuration(path), "checkpoint", {}))


@checkpoint.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--force", is_flag=True, help="Even if it does worse on held-out samples.")
@click.pass_obj
def push(path: Path | None, folder: Path, force: bool) -> None:
    """Send a signed generation to the node, to serve unless it does worse than what serves."""
    lazily("edgecc.cli.remote", "push")(configuration(path), folder, force=force)


@checkpoint.command()
@click.argument("number", type=int)
@click.option("--force", is_flag=True, help="Even if it does worse on held-out samples.")
@click.pass_obj
def rollback(path: Path | None, number: int, force: bool) -> None:
    """Have the node serve an earlier generation again, unless it does worse than what serves."""
    lazily("edgecc.cli.remote", "rollback")(configuration(path), number, force=force)


@checkpoint.command()
@click.argument("place", metavar="PATH|NUMBER")
@click.option("--key", default=None, help="Public key (hex) that must have signed it, for a PATH; "
              "else the one kept beside it.")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def inspect(path: Path | None, place: str, key: str | None, as_json: bool) -> None:
    """What is in a checkpoint's folder, or in generation NUMBER of this node's own state."""
    lazily("edgecc.cli.inspect", "inspect")(configuration(path), place, key, as_json)


@checkpoint.command()
@click.argument("number", type=int)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def export(path: Path | None, number: int, folder: Path, as_json: bool) -> None:
    """Copy a generation out of this node's own state into DIR, verified; needs no broker."""
    lazily("edgecc.cli.inspect", "export")(configuration(path), number, folder, as_json)
