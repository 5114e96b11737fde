"""Commands: parse, call one function, print. Heavy imports wait until a command needs them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import edgecc
from edgecc import logs
from edgecc.bench.cli import bench
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


@click.group(cls=Group)
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


# --- the daemon ---


@main.command()
@click.option("--with-broker", is_flag=True, help="Run a local broker too, for a first try.")
@click.pass_obj
def start(path: Path | None, with_broker: bool) -> None:
    """Run the daemon: receive, store, predict, learn, publish."""
    import os

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy; one core stays free
    config = configuration(path)
    from edgecc.start import run

    sys.exit(run(config, with_broker=with_broker))


@main.command()
@click.option("--force", is_flag=True, help="Overwrite an existing edgecc.yaml.")
@click.option("--kind", type=click.Choice(["image", "sensor"]), default="image", show_default=True)
@click.option("--shape", default=None, help="Sizes with commas, e.g. 3,64,64 or 6,128.")
@click.option("--host", default=None, help="Of the broker; else it is left for you to set.")
@click.option("--node", default=None, help="Name of this node; else the host's.")
def init(**chosen: Any) -> None:
    """Write an edgecc.yaml here, ready to edit."""
    click.echo(lazily("edgecc.setup", "write")(Path("edgecc.yaml"), **chosen))


@main.command()
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def plan(path: Path | None, as_json: bool) -> None:
    """Where every byte of memory_budget goes, before anything is allocated."""
    lazily("edgecc.report", "plan")(configuration(path), as_json)


@main.command()
@click.option("--json", "as_json", is_flag=True)
@click.option("--watch", is_flag=True, help="Follow until interrupted.")
@click.pass_obj
def status(path: Path | None, as_json: bool, watch: bool) -> None:
    """What the node says of itself."""
    lazily("edgecc.report", "status")(configuration(path), as_json=as_json, watch=watch)


# --- samples in, labels in, predictions out ---


@main.command()
@click.argument("path")
@click.option("--source", default="stream", show_default=True, help="Name of this producer.")
@click.option("--rate", type=float, default=None, help="Samples a second; else as fast as stored.")
@click.option("--limit", type=int, default=None, help="Stop after this many samples.")
@click.option("--unlabelled", is_flag=True, help="Send no labels.")
@click.option("--window", type=int, default=None, help="CSV: rows in a window.")
@click.option("--step", type=int, default=None, help="CSV: rows between windows.")
@click.option("--label-column", default=None, help="CSV: the column with the label.")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def stream(config_path: Path | None, /, path: str, as_json: bool, **options: Any) -> None:
    """Publish samples and wait for the node's receipts.

    PATH is a folder of class folders, a folder of IDX files, a .csv of sensor readings, a .jsonl
    file, 'digits', or '-' for JSON lines on standard input.
    """
    lazily("edgecc.produce", "stream")(configuration(config_path), path, as_json, **options)


@main.command()
@click.argument("sample_id", metavar="ID")
@click.argument("label")
@click.option("--source", default="stream", show_default=True)
@click.pass_obj
def label(path: Path | None, sample_id: str, label: str, source: str) -> None:
    """Give a stored sample its label."""
    config = configuration(path)
    click.echo(lazily("edgecc.produce", "label")(config, sample_id, label, source))


@main.command()
@click.argument(
    "files", nargs=-1, required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option("--checkpoint", type=click.Path(exists=True, path_type=Path), default=None,
              help="A pulled checkpoint's folder; else this node's own state.")
@click.option("--key", default=None, help="Public key (hex) that must have signed it.")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def predict(
    path: Path | None, files: tuple[Path, ...], checkpoint: Path | None, key: str | None,
    as_json: bool,
) -> None:
    """Classify files (JPEG, PNG, JSON, npy of one or many) here, without a broker."""
    lazily("edgecc.offline", "predict")(configuration(path), files, checkpoint, key, as_json)


# --- configuration ---


@main.group()
def config() -> None:
    """Check or show the configuration."""


@config.command()
@click.pass_obj
def check(path: Path | None) -> None:
    """Say whether the configuration is usable."""
    lazily("edgecc.report", "check")(configuration(path))


@config.command("show")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def show_config(path: Path | None, as_json: bool) -> None:
    """Every key with the value in force; secrets masked."""
    lazily("edgecc.report", "config")(configuration(path), as_json)


# --- checkpoints ---


@main.group()
def checkpoint() -> None:
    """List, fetch, verify and roll back what the node has learnt."""


@checkpoint.command("list")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def list_checkpoints(path: Path | None, as_json: bool) -> None:
    """Generations that the node offers."""
    lazily("edgecc.retrieve", "list_offers")(configuration(path), as_json)


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
    lazily("edgecc.retrieve", "pull")(configuration(path), number, folder, key, as_json)


@checkpoint.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--key", default=None, help="Public key (hex) that must have signed it.")
@click.option("--json", "as_json", is_flag=True)
def verify(folder: Path, key: str | None, as_json: bool) -> None:
    """Check signature, digests, shapes and values of a checkpoint's folder."""
    lazily("edgecc.retrieve", "verify")(folder, key, as_json)


@checkpoint.command()
@click.pass_obj
def save(path: Path | None) -> None:
    """Have the node save its live readout as a new generation."""
    print_json(lazily("edgecc.retrieve", "command")(configuration(path), "checkpoint", {}))


@checkpoint.command()
@click.argument("number", type=int)
@click.pass_obj
def rollback(path: Path | None, number: int) -> None:
    """Have the node serve an earlier generation again."""
    args = {"generation": number}
    print_json(lazily("edgecc.retrieve", "command")(configuration(path), "rollback", args))


# --- the log on this node ---


@main.group()
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
    lazily("edgecc.report", "samples")(configuration(path), **options)


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
    lazily("edgecc.unlearn", "unlearn")(configuration(path), ids, **options)


@samples.command()
@click.option("--limit", default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def quarantine(path: Path | None, limit: int, as_json: bool) -> None:
    """The newest messages that could not be understood, and why."""
    lazily("edgecc.report", "quarantine")(configuration(path), limit, as_json)


# --- who labels ---


@main.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def sources(ctx: click.Context, as_json: bool) -> None:
    """Who labels, how often against the predictions, and who is distrusted."""
    if ctx.invoked_subcommand is None:
        lazily("edgecc.retrieve", "sources")(configuration(ctx.obj), as_json)


@sources.command()
@click.argument("source")
@click.pass_obj
def trust(path: Path | None, source: str) -> None:
    """Learn SOURCE's labels from now on, and those set aside, whatever the figures say."""
    args = {"source": source, "trusted": True}
    print_json(lazily("edgecc.retrieve", "command")(configuration(path), "trust", args))


@sources.command()
@click.argument("source")
@click.pass_obj
def distrust(path: Path | None, source: str) -> None:
    """Unlearn SOURCE's labels, and learn none from now on."""
    args = {"source": source, "trusted": False}
    print_json(lazily("edgecc.retrieve", "command")(configuration(path), "trust", args))


# --- measuring ---

main.add_command(bench)


@main.command()
@click.option("--json", "figures", type=click.Path(path_type=Path), default=None,
              help="Write the figures here.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True,
              help="Folder for the plot and the figures.")
@click.option("--samples", "count", type=int, default=None, help="Training samples to stream.")
def demo(figures: Path | None, out: Path, count: int | None) -> None:
    """Broker, daemon, stream, learning, retrieval: everything once, on real data, measured."""
    lazily("edgecc.bench.demo", "run")(out, figures, count)
