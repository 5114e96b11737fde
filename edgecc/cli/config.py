"""`edgecc init`, `edgecc config check` and `edgecc config show`."""

from pathlib import Path

import click
import yaml

from edgecc.cli.common import json_option, output, with_config
from edgecc.config.loading import load
from edgecc.config.schema import Config
from edgecc.config.schema import show as as_plain
from edgecc.config.units import format_size
from edgecc.errors import ConfigError
from edgecc.plan.budget import describe_stem, planned
from edgecc.trunk.model_stem import has_weights

_TEMPLATE = """\
# Every key with its default and meaning: edgecc.yaml in edgecc's repository, or
# `edgecc config show`.
node: {node}
state_dir: ~/.local/state/edgecc/{node}
memory_budget: 512MiB   # daemon and learner together
disk_budget: 4GiB       # samples kept for replay

mqtt:
  {host}
  # username: {node}
  # password: !secret mqtt_password   # in secrets.yaml beside this file

input:
  kind: {kind}
  shape: [{shape}]
"""
_SHAPES = {"image": "3, 64, 64", "sensor": "6, 128"}
_PRETRAINED_SHAPE = "3, 160, 160"  # does better where its stem is installed; docs/experiments.md


@click.command()
@click.option("--force", is_flag=True, help="Overwrite an existing edgecc.yaml.")
@click.option("--kind", type=click.Choice(list(_SHAPES)), default="image", show_default=True)
@click.option("--shape", help="Sizes with commas, e.g. 3,64,64 or 6,128.")
@click.option("--host", help="The broker's address; else a line for you to fill in.")
@click.option("--node", help="Name of this node; else the host's name.")
def init(
    force: bool, kind: str, shape: str | None, host: str | None, node: str | None
) -> None:
    """Write an edgecc.yaml here, ready to edit."""
    path = Path("edgecc.yaml")
    if path.exists() and not force:
        raise ConfigError(f"{path} exists; --force overwrites it")
    before = path.read_text() if path.exists() else None
    usual = _PRETRAINED_SHAPE if kind == "image" and has_weights() else _SHAPES[kind]
    path.write_text(_TEMPLATE.format(
        node=node or load(None, environ={}).node, kind=kind,
        host=f"host: {host}" if host else "# host: broker.local   # else localhost is tried once",
        shape=", ".join(part.strip() for part in (shape or usual).split(","))))
    try:
        load(path, environ={})
    except ConfigError:
        path.unlink() if before is None else path.write_text(before)
        raise
    click.echo(f"wrote {path}; next: edgecc start (--with-broker for a local broker)")


@click.group()
def config() -> None:
    """Check or show the configuration."""


@config.command()
@with_config
def check(config: Config) -> None:
    """Say whether the configuration is usable."""
    plan, stem = planned(config)
    click.echo(f"ok: node {config.node}, {len(plan.blocks)} blocks within "
               f"{format_size(config.memory_budget)}, state in {config.state}")
    click.echo(describe_stem(config, plan, stem))
    if config.grow.blocks and not plan.blocks:
        click.echo("but no block fits memory_budget: only the readout will learn")


@config.command()
@json_option
@with_config
def show(config: Config, as_json: bool) -> None:
    """Show every key with the value in force; secrets are masked."""
    values = as_plain(config)
    output(values, yaml.safe_dump(values, sort_keys=False).splitlines(), as_json)
