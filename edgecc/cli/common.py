"""What every command shares: its configuration, its errors' exit codes, imports that wait."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecc.errors import EdgeccError

if TYPE_CHECKING:
    from edgecc.config.schema import Config

class Group(click.Group):
    """Turns our errors into one line on stderr and their exit code; commands may be lazy.

    lazy: of each command that is imported when it is asked for, "module:attribute".
    """

    def __init__(self, *args: Any, lazy: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, attribute = self._lazy[cmd_name].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeccError as error:
            click.echo(f"edgecc: {error}", err=True)
            ctx.exit(error.exit_code)


def configuration(path: Path | None) -> "Config":
    from edgecc.config import loading

    return loading.configuration(path)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def lazily(module: str, function: str) -> Callable[..., Any]:
    """`function` of `module`, imported when it is called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        import importlib

        return getattr(importlib.import_module(module), function)(*args, **kwargs)

    return call
