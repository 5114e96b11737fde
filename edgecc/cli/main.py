"""`edgecc`, the root command, and `edgecc start`.

The file of every other command is imported when the command is asked for.
"""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import click

import edgecc
from edgecc.errors import EdgeccError
from edgecc.host import logs

if TYPE_CHECKING:
    from edgecc.config.schema import Config

log = logging.getLogger(__name__)

# Name: where it is declared, and the first line of its help, which `edgecc --help` prints.
COMMANDS = {
    "bench": ("edgecc.bench.cli:bench", "Measure: tables for people, figures as JSON."),
    "checkpoint": ("edgecc.cli.checkpoint:checkpoint",
                   "List, fetch, verify, inspect, copy and roll back generations."),
    "config": ("edgecc.cli.config:config", "Check or show the configuration."),
    "demo": ("edgecc.bench.cli:demo", "Run everything once on real data, and measure it."),
    "init": ("edgecc.cli.config:init", "Write an edgecc.yaml here, ready to edit."),
    "keys": ("edgecc.cli.keys:keys", "Show, create, rotate and revoke this node's signing keys."),
    "label": ("edgecc.cli.labels:label", "Give a stored sample its label."),
    "plan": ("edgecc.cli.status:plan", "Show how memory_budget would be spent."),
    "predict": ("edgecc.cli.predict:predict", "Classify files here, without a broker."),
    "retained": ("edgecc.cli.retained:retained",
                 "Manage the messages that the broker retains for this node."),
    "samples": ("edgecc.cli.samples:samples", "List, unlearn and retry what is in the log."),
    "sources": ("edgecc.cli.labels:sources", "Show who labels, and whom the node trusts."),
    "start": ("edgecc.cli.main:start", "Run the daemon: receive, store, predict, learn, publish."),
    "status": ("edgecc.cli.status:status", "Show the node's status."),
    "stream": ("edgecc.cli.stream:stream", "Publish samples and wait for the node's receipts."),
}


class Root(click.Group):
    """Loads sub-commands lazily; prints our errors as one line and exits with their code."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = resolve_name(COMMANDS[cmd_name][0])
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeccError as error:
            click.echo(f"edgecc: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=Root)
@click.option("--config", "path", type=click.Path(path_type=Path), help="Configuration file; "
              "else edgecc.yaml here, in ~/.config/edgecc or /etc/edgecc.")
@click.option("--log-level", default="info", show_default=True,
              type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--log-format", default="text", show_default=True,
              type=click.Choice(["text", "json"]))
@click.version_option(edgecc.__version__, prog_name="edgecc")
@click.pass_context
def main(ctx: click.Context, path: Path | None, log_level: str, log_format: str) -> None:
    """Learns on the device from what you stream to it over MQTT."""
    logs.to_stderr(log_level, log_format)
    ctx.obj = path


@click.command()
@click.option("--with-broker", is_flag=True, help="Run a local broker too, for a first try.")
@click.pass_obj
def start(path: Path | None, with_broker: bool) -> None:
    """Run the daemon: receive, store, predict, learn, publish."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy; one core stays free
    from edgecc.config.loading import configuration
    from edgecc.daemon import daemon
    from edgecc.host import allocator

    def read() -> "Config":
        config = configuration(path)
        if with_broker:
            config = replace(config, mqtt=replace(config.mqtt, host="127.0.0.1"))
        return config

    allocator.frugal()
    config = read()
    with ExitStack() as stack:
        if with_broker:
            stack.callback(_start_broker(config))
        sys.exit(daemon.run(config, read))


def _start_broker(config: "Config") -> Callable[[], None]:
    """Start a broker for this configuration; returns what stops it."""
    from edgecc.mqtt.local_broker import start_local

    broker = start_local(config.state.broker, config.mqtt.port)
    log.info("%s listens on 127.0.0.1:%d", broker.name, config.mqtt.port)
    return broker.stop
