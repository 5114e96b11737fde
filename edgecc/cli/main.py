"""Commands: parse, call one function, print. Heavy imports wait until a command needs them."""

import sys
from pathlib import Path
from typing import Any

import click

import edgecc
from edgecc.cli.checkpoint import checkpoint
from edgecc.cli.common import Group, configuration, lazily
from edgecc.cli.keys import keys
from edgecc.cli.retained import retained
from edgecc.cli.samples import samples
from edgecc.cli.sources import sources
from edgecc.host import logs


@click.group(cls=Group, lazy={
    "bench": "edgecc.bench.cli:bench", "demo": "edgecc.bench.cli:demo"})
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


# --- the daemon ---


@main.command()
@click.option("--with-broker", is_flag=True, help="Run a local broker too, for a first try.")
@click.pass_obj
def start(path: Path | None, with_broker: bool) -> None:
    """Run the daemon: receive, store, predict, learn, publish."""
    import os

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy; one core stays free
    from edgecc.daemon.run import run

    sys.exit(run(lambda: configuration(path), with_broker=with_broker))


@main.command()
@click.option("--force", is_flag=True, help="Overwrite an existing edgecc.yaml.")
@click.option("--kind", type=click.Choice(["image", "sensor"]), default="image", show_default=True)
@click.option("--shape", default=None, help="Sizes with commas, e.g. 3,64,64 or 6,128.")
@click.option("--host", default=None, help="Of the broker; else it is left for you to set.")
@click.option("--node", default=None, help="Name of this node; else the host's.")
def init(**chosen: Any) -> None:
    """Write an edgecc.yaml here, ready to edit."""
    click.echo(lazily("edgecc.cli.init", "write")(Path("edgecc.yaml"), **chosen))


@main.command()
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def plan(path: Path | None, as_json: bool) -> None:
    """Where every byte of memory_budget goes, before anything is allocated."""
    lazily("edgecc.cli.status", "plan")(configuration(path), as_json)


@main.command()
@click.option("--json", "as_json", is_flag=True)
@click.option("--watch", is_flag=True, help="Follow until interrupted.")
@click.pass_obj
def status(path: Path | None, as_json: bool, watch: bool) -> None:
    """What the node says of itself."""
    lazily("edgecc.cli.status", "status")(configuration(path), as_json=as_json, watch=watch)


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
    lazily("edgecc.cli.stream", "stream")(configuration(config_path), path, as_json, **options)


@main.command()
@click.argument("sample_id", metavar="ID")
@click.argument("label")
@click.option("--source", default="stream", show_default=True)
@click.pass_obj
def label(path: Path | None, sample_id: str, label: str, source: str) -> None:
    """Give a stored sample its label."""
    config = configuration(path)
    click.echo(lazily("edgecc.cli.stream", "label")(config, sample_id, label, source))


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
    lazily("edgecc.cli.predict", "predict")(configuration(path), files, checkpoint, key, as_json)


# --- configuration ---


@main.group()
def config() -> None:
    """Check or show the configuration."""


@config.command()
@click.pass_obj
def check(path: Path | None) -> None:
    """Say whether the configuration is usable."""
    lazily("edgecc.cli.status", "check")(configuration(path))


@config.command("show")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def show_config(path: Path | None, as_json: bool) -> None:
    """Every key with the value in force; secrets masked."""
    lazily("edgecc.cli.status", "config")(configuration(path), as_json)


# --- in groups ---

for group in (checkpoint, samples, sources, keys, retained):
    main.add_command(group)
