"""What the commands share: the configuration as their first argument, `--json`, a node's state."""

import json
import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from edgecc.config.loading import configuration
from edgecc.config.schema import Config
from edgecc.errors import NotRunning
from edgecc.mqtt.client import Client

_P = ParamSpec("_P")
_R = TypeVar("_R")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def with_config(command: Callable[Concatenate[Config, _P], _R]) -> Callable[_P, _R]:
    """Call `command` with the configuration first, loaded when the command runs."""

    @wraps(command)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return command(configuration(click.get_current_context().obj), *args, **kwargs)

    return call


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def output(value: Any, text: Iterable[str], as_json: bool) -> None:
    """Print `value` as JSON, else the lines of `text`."""
    if as_json:
        print_json(value)
    else:
        for line in text:
            click.echo(line)


def when(ts: float) -> str:
    """Local time, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ts))


def refuse_offline(client: Client, config: Config) -> None:
    """NotRunning where the node is offline: only its daemon writes to its log."""
    if client.retained(config.topics / "status") == b"offline":
        raise NotRunning(f"{config.node} is offline: run `edgecc start` there, then this again")
