"""`edgecc bench ...`: every figure in docs/figures.md."""

from pathlib import Path

import click

FOLDER = Path("~/.cache/edgecc/bench")


@click.group()
def bench() -> None:
    """Measure: tables for people, figures as JSON."""


_json = click.option("--json", "json_path", type=click.Path(path_type=Path),
                     help="Also write the figures here.")
_cells = click.option("--cells", type=click.Path(path_type=Path), default=FOLDER,
                      show_default=True, help="Finished cells; a later call goes on from them.")
_out = click.option("--out", type=click.Path(path_type=Path), default=Path("bench"),
                    show_default=True, help="Folder of figures and plots.")
_quick = click.option("--quick", is_flag=True, help="A smoke test; its figures mean nothing.")


@bench.command()
@_quick
@_cells
@_out
@_json
def accuracy(quick: bool, cells: Path, out: Path, json_path: Path | None) -> None:
    """Many passes over Fashion-MNIST and digits, every method (about four hours)."""
    from edgecc.bench.learning.accuracy import run

    out.mkdir(parents=True, exist_ok=True)
    run(quick=quick, folder=cells.expanduser(), json_path=json_path, out=out)


@bench.command()
@_quick
@click.option("--rivals/--no-rivals", default=True, show_default=True,
              help="Every method and the rivals too, beside each other on 20,000 samples.")
@_cells
@_out
@_json
def continual(
    quick: bool, rivals: bool, cells: Path, out: Path, json_path: Path | None
) -> None:
    """Split-Fashion-MNIST, one pass, with controls and rivals (about an hour and a half)."""
    from edgecc.bench.learning.continual import run

    out.mkdir(parents=True, exist_ok=True)
    run(quick=quick, rivals=rivals, folder=cells.expanduser(), json_path=json_path, out=out)


@bench.command()
@_quick
@_json
def drift(quick: bool, json_path: Path | None) -> None:
    """Detection delay, false alarms and worth of drift detection (one to three minutes)."""
    from edgecc.bench.learning.drift import run

    run(quick=quick, json_path=json_path)


@bench.command("few-shot")
@click.option("--quick", is_flag=True, help="Two draws of labels instead of ten.")
@click.option("--stem", "stems", multiple=True, help="Stems to compare, as in edgecc.yaml; "
              "repeat it. Default: patches, efficientnet-lite0 and efficientnet-lite0:16.")
@_json
def few_shot(quick: bool, stems: tuple[str, ...], json_path: Path | None) -> None:
    """Accuracy after 1, 5 and 20 labels a class, then in a style of pictures never seen.

    The pictures are emoji in two styles; npm fetches them into ~/.cache/edgecc at the first run.
    """
    from edgecc.bench.learning.few_shot import run

    run(json_path, quick=quick, stems=stems)


@bench.command()
@_quick
@_out
@_json
def delivery(quick: bool, out: Path, json_path: Path | None) -> None:
    """What durability costs: a node beside plain paho on the same broker (about five minutes)."""
    from edgecc.bench.delivery.delivery import run

    run(quick=quick, out=out, json_path=json_path)


@bench.command()
@click.option("--budget", "budgets", type=int, multiple=True,
              help="MiB; repeat it. Default: from 1024 down to 128.")
@click.option("--torch", "torch_alone", type=int, multiple=True,
              help="MiB, with torch alone; repeat it. Default: 320.")
@_quick
@_out
@_json
def memory(
    budgets: tuple[int, ...], torch_alone: tuple[int, ...], quick: bool, out: Path,
    json_path: Path | None,
) -> None:
    """The plan against the kernel's count under several budgets (about 40 minutes)."""
    from edgecc.bench.device.memory import run

    run(quick=quick, out=out, json_path=json_path, budgets=budgets, torch_alone=torch_alone)


@bench.command()
@_quick
@_json
def train(quick: bool, json_path: Path | None) -> None:
    """Time and memory of a training step beside backpropagation's (about two minutes)."""
    from edgecc.bench.device.train import run

    run(quick=quick, json_path=json_path)


@bench.command()
@_quick
@_out
@_json
@click.pass_context
def costs(ctx: click.Context, quick: bool, out: Path, json_path: Path | None) -> None:
    """What daemon and learner take on this device, for the planner (one or two minutes).

    The table goes into the state_dir of the configuration: the next start plans with it.
    """
    from edgecc.bench.device.costs import run
    from edgecc.config.loading import configuration

    table = configuration(ctx.obj).state.costs
    run(quick=quick, out=out, json_path=json_path, table=table)


@bench.command()
@_quick
@_json
def imports(quick: bool, json_path: Path | None) -> None:
    """Import time and resident memory of each dependency (under a minute)."""
    from edgecc.bench.device.imports import run

    run(quick=quick, json_path=json_path)


@bench.command()
@_quick
@_out
@_json
def latency(quick: bool, out: Path, json_path: Path | None) -> None:
    """The trunk beside torch, a prediction beside an echo, and what age and classes add to either
    (about eight minutes)."""
    from edgecc.bench.device.latency import run

    run(quick=quick, out=out, json_path=json_path)


@bench.command()
@click.argument("checkout", required=False, type=click.Path(path_type=Path))
@_json
def house(checkout: Path | None, json_path: Path | None) -> None:
    """Structure of the sources: rooms, layers, circles, lengths (a second)."""
    from edgecc.bench.house import run

    run(root=checkout, json_path=json_path)


@click.command()
@click.option("--json", "figures", type=click.Path(path_type=Path), default=None,
              help="Write the figures here.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True,
              help="Folder for the plot and the figures.")
@click.option("--samples", "count", type=int, default=None, help="Training samples to stream.")
def demo(figures: Path | None, out: Path, count: int | None) -> None:
    """Run everything once on real data, and measure it.

    Broker, daemon, stream, learning and retrieval, as a user would do them.
    """
    from edgecc.bench.demo import run

    run(out, figures, count)
