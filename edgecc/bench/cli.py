"""`edgecc bench ...`: every figure in the README."""

from pathlib import Path

import click


@click.group()
def bench() -> None:
    """Measure: tables for people, and figures as JSON."""


_json = click.option("--json", "json_path", type=click.Path(path_type=Path),
                     help="Also write the figures here.")
_quick = click.option("--quick", is_flag=True, help="A smoke test; its figures mean nothing.")


@bench.command()
@_quick
@_json
def drift(quick: bool, json_path: Path | None) -> None:
    """Detection delay, false alarms and worth of drift detection (one to three minutes)."""
    from edgecc.bench.drift import run

    run(quick=quick, json_path=json_path)
