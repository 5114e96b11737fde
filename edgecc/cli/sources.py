"""`edgecc sources ...`"""

from pathlib import Path

import click

from edgecc.cli.common import configuration, lazily, print_json


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def sources(ctx: click.Context, as_json: bool) -> None:
    """Who labels, how often against the predictions, and who is distrusted."""
    if ctx.invoked_subcommand is None:
        lazily("edgecc.cli.remote", "sources")(configuration(ctx.obj), as_json)


@sources.command()
@click.argument("source")
@click.pass_obj
def trust(path: Path | None, source: str) -> None:
    """Learn SOURCE's labels from now on, and those set aside, whatever the figures say."""
    args = {"source": source, "trusted": True}
    print_json(lazily("edgecc.cli.remote", "command")(configuration(path), "trust", args))


@sources.command()
@click.argument("source")
@click.pass_obj
def distrust(path: Path | None, source: str) -> None:
    """Unlearn SOURCE's labels, and learn none from now on."""
    args = {"source": source, "trusted": False}
    print_json(lazily("edgecc.cli.remote", "command")(configuration(path), "trust", args))
