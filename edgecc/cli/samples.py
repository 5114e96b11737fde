"""`edgecc samples ...`"""

from pathlib import Path
from typing import Any

import click

from edgecc.cli.common import configuration, lazily


@click.group()
def samples() -> None:
    """Look into this node's log, and unlearn what is in it."""


@samples.command("list")
@click.option("--limit", default=20, show_default=True)
@click.option("--source", default=None, help="Only of this producer.")
@click.option("--since", default=None, help="Only from then on, as for `unlearn`.")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def list_samples(path: Path | None, /, **options: Any) -> None:
    """The newest samples."""
    lazily("edgecc.cli.status", "samples")(configuration(path), **options)


@samples.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--source", default=None, help="Everything of this producer.")
@click.option("--since", default=None, help="Everything from then on: 2025-01-31, 3h, 2d, ...")
@click.option("--deep", is_flag=True, help="Also delete what was trained on them; grow again.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def unlearn(path: Path | None, /, ids: tuple[str, ...], **options: Any) -> None:
    """Have the node unlearn samples exactly, and erase them from its log."""
    lazily("edgecc.cli.unlearn", "unlearn")(configuration(path), ids, **options)


@samples.group(invoke_without_command=True)
@click.option("--limit", default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def quarantine(ctx: click.Context, limit: int, as_json: bool) -> None:
    """The newest messages that could not be understood, each with its number, and why."""
    if ctx.invoked_subcommand is None:
        lazily("edgecc.cli.status", "quarantine")(configuration(ctx.obj), limit, as_json)


@quarantine.command()
@click.argument("seqs", nargs=-1, type=int, metavar="[SEQ]...")
@click.option("--all", "everything", is_flag=True, help="All that are in quarantine.")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def retry(path: Path | None, seqs: tuple[int, ...], everything: bool, as_json: bool) -> None:
    """Have the node take messages in again, once what was wrong has been corrected."""
    lazily("edgecc.cli.remote", "retry")(configuration(path), seqs, everything, as_json)
