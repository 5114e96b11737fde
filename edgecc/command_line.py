"""What every command shares: its configuration, its errors' exit codes, imports that wait."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecc.errors import EdgeccError

if TYPE_CHECKING:
    from edgecc.config import Config

_PLACES = ("edgecc.yaml", "~/.config/edgecc/edgecc.yaml", "/etc/edgecc/edgecc.yaml")


class Group(click.Group):
    """Turns our errors into one line on stderr and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeccError as error:
            click.echo(f"edgecc: {error}", err=True)
            ctx.exit(error.exit_code)


def configuration(path: Path | None, **flags: Any) -> "Config":
    """The configuration for a command, from the first file that exists."""
    from edgecc import config

    found = path or next(
        (place for name in _PLACES if (place := Path(name).expanduser()).exists()), None
    )
    return config.load(found, flags={key: value for key, value in flags.items() if value})


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def lazily(module: str, function: str) -> Callable[..., Any]:
    """`function` of `module`, imported when it is called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        import importlib

        return getattr(importlib.import_module(module), function)(*args, **kwargs)

    return call
