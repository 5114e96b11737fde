"""`edgecc samples`: list the log, unlearn samples, list the quarantine and retry what is in it."""

import secrets
from collections.abc import Iterable, Iterator
from typing import Any

import click

from edgecc.cli.common import json_option, output, refuse_offline, when, with_config, yes_option
from edgecc.config.loading import configuration
from edgecc.config.schema import Config
from edgecc.errors import EdgeccError, NotRunning
from edgecc.mqtt.client import Client
from edgecc.protocol.selection import since_seconds
from edgecc.protocol.topics import check_id
from edgecc.store.reader import Reader

_PATIENCE = 20.0  # seconds before asking again, under the same id
_TRIES = 30


@click.group()
def samples() -> None:
    """List, unlearn and retry what is in the log."""


@samples.command("list")
@click.option("--limit", default=20, show_default=True)
@click.option("--source", help="Only of this producer.")
@click.option("--since", help="Only from then on, as for `unlearn`.")
@json_option
@with_config
def list_samples(
    config: Config, limit: int, source: str | None, since: str | None, as_json: bool
) -> None:
    """List the newest samples."""
    start = None if since is None else since_seconds(since)
    rows = _log(config).samples(limit, source=source, since=start)
    output(rows, (
        f"{when(row['ts'])}  {row['source']:12} {row['label'] or '-':16} "
        f"{'held out' if row['held_out'] else '':8} {row['id']}" for row in rows), as_json)


@samples.group(invoke_without_command=True)
@click.option("--limit", default=20, show_default=True)
@json_option
@click.pass_context
def quarantine(ctx: click.Context, limit: int, as_json: bool) -> None:
    """List the newest messages that could not be understood, each with its number and reason."""
    if ctx.invoked_subcommand is None:
        rows = _log(configuration(ctx.obj)).quarantined(limit)
        output(rows, (
            f"{row['seq']:6}  {when(row['ts'])}  {row['topic']}  {row['bytes']} B: {row['reason']}"
            for row in rows), as_json)


def _log(config: Config) -> Reader:
    path = config.state.log
    if not path.exists():
        raise NotRunning(f"no log at {path}: run this on the node, with its configuration")
    return Reader(path)


@quarantine.command()
@click.argument("seqs", nargs=-1, type=int, metavar="[SEQ]...")
@click.option("--all", "everything", is_flag=True, help="Everything in quarantine.")
@json_option
@with_config
def retry(config: Config, seqs: tuple[int, ...], everything: bool, as_json: bool) -> None:
    """Have the node process messages again, once what was wrong has been corrected."""
    if bool(seqs) == everything:
        raise click.UsageError("name messages by SEQ (`edgecc samples quarantine`), or --all")
    with Client(config) as client:
        refuse_offline(client, config)
        outcomes = [one for part in _retried(client, seqs) for one in part]
    output(outcomes, (
        f"{one['seq']:6}  {one['reason'] or 'taken in'}" for one in outcomes), as_json)


def _retried(client: Client, seqs: tuple[int, ...]) -> Iterator[list[dict[str, Any]]]:
    """The node's answers: one for each number, or for everything from the first to the last."""
    for seq in seqs:
        yield client.command("retry", {"seq": seq}, timeout=60.0)
    after = 0
    while not seqs and (part := client.command("retry", {"after": after}, timeout=60.0)):
        after = part[-1]["seq"]
        yield part


@samples.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--source", help="Everything of this producer.")
@click.option("--since", help="Everything from then on: 2025-01-31, 3h, 2d, ...")
@click.option("--deep", is_flag=True, help="Also delete what was trained on them; grow again.")
@yes_option
@json_option
@with_config
def unlearn(
    config: Config, ids: tuple[str, ...], source: str | None, since: str | None, deep: bool,
    yes: bool, as_json: bool,
) -> None:
    """Have the node unlearn samples exactly, and erase them from its log."""
    args = _arguments(ids, source, since) | {"deep": deep}
    with Client(config) as client:
        refuse_offline(client, config)
        outcome = client.command("unlearn", args | {"preview": True})
        if _anything_to_do(outcome, config, deep=deep):
            if not yes:
                click.echo(_preview(outcome, deep=deep), err=True)
                click.confirm("This cannot be undone. Continue?", abort=True, err=True)
            outcome = _unlearn(client, config, args)
    output(outcome, _report(outcome, deep=deep), as_json)
    if outcome["evicted"] and not deep:
        click.echo(_evicted(outcome), err=True)


def _arguments(ids: tuple[str, ...], source: str | None, since: str | None) -> dict[str, Any]:
    if bool(ids) == bool(source or since):
        raise click.UsageError("name samples by ID, or by --source, --since or both")
    if ids:
        return {"ids": list(ids)}
    args: dict[str, Any] = {} if source is None else {"source": check_id(source, "--source")}
    return args if since is None else args | {"since": since_seconds(since)}


def _anything_to_do(preview: dict[str, Any], config: Config, *, deep: bool) -> bool:
    """False where nothing matches; an error where the samples named cannot be unlearnt."""
    counted = ["samples", "pending", "quarantined", *(["already", "evicted"] if deep else [])]
    if any(preview[name] for name in counted):
        return True
    if preview["evicted"]:
        raise EdgeccError(_evicted(preview))
    if preview["unknown"]:
        raise EdgeccError(
            f"the log of {config.node} has no sample {', '.join(preview['unknown'])}; see "
            "`edgecc samples list`"
        )
    return False


def _preview(preview: dict[str, Any], *, deep: bool) -> str:
    lines = [f"Would unlearn and erase {_what(preview)}."]
    if deep and preview["removed"]:
        lines.append(
            f"Would delete {_generations(preview['removed'])} and grow again without them.")
    return "\n".join(lines)


def _unlearn(client: Client, config: Config, args: dict[str, Any]) -> dict[str, Any]:
    """The node's answer; asked again under the same id, since the node may restart meanwhile."""
    request = secrets.token_hex(8)
    for _ in range(_TRIES):
        try:
            outcome: dict[str, Any] = client.command(
                "unlearn", args, timeout=_PATIENCE, request=request)
            return outcome
        except NotRunning:
            click.echo("not done yet", err=True)
    raise NotRunning(
        f"{config.node} has not answered for {_TRIES * _PATIENCE:.0f} s. If it has received the "
        "request, it carries on with it, over restarts too; the event `unlearnt` reports the end"
    )


def _report(outcome: dict[str, Any], *, deep: bool) -> list[str]:
    lines = [f"unlearnt and erased: {_what(outcome)}"]
    if outcome.get("copies_possible"):
        lines.append("the log is too large to be rewritten now: parts of what was erased may be "
                     "left in unused space of log.sqlite (docs/unlearning.md)")
    if "base" in outcome:
        base = "nothing" if outcome["base"] is None else f"generation {outcome['base']}"
        lines.append(f"{base} serves; deleted: {_generations(outcome['removed'])}")
        again = ", ".join(map(str, outcome["growths_again"])) or "none"
        lines.append(f"growths started again without them: {again}")
        if outcome["not_relearnt"]:
            lines.append(f"{outcome['not_relearnt']} other samples had left the log: the readout "
                         "is without them until a growth has ended")
    elif not deep:
        lines += _left(outcome)
    return lines


def _left(outcome: dict[str, Any]) -> list[str]:
    """What generations still hold of the samples, once their labels and pictures are erased."""
    by, lines = outcome["generations"], []
    parts = {
        "trained": "blocks were trained on some of them",
        "scaled": "the sensor's scale was measured on some of them",
        "evaluated": "some, held out, were only used to evaluate and to choose ridge strength and "
                     "temperature",
        "readout": "the saved readout has learnt them (it is not served again)",
    }
    for part, what in parts.items():
        if by[part]:
            lines.append(f"{_generations(by[part], outcome['serving'])}: {what}")
    if by["trained"] or by["scaled"] or by["evaluated"]:
        lines.append("--deep deletes these generations, and grows again without the samples")
    return lines


def _what(outcome: dict[str, Any]) -> str:
    parts = [f"{outcome['samples']} samples ({outcome['labelled']} labelled, "
             f"{outcome['held_out']} of these held out)"]
    parts += [f"{outcome[name]} {words}" for name, words in (
        ("pending", "waiting labels"), ("quarantined", "messages in quarantine"),
        ("already", "unlearnt before")) if outcome[name]]
    if outcome["evicted"]:
        parts.append(f"{outcome['evicted']} that had left the log")
    return ", ".join(parts)


def _generations(numbers: Iterable[int], serving: int | None = None) -> str:
    named = [f"{n} (serving)" if n == serving else str(n) for n in numbers]
    return f"generations {', '.join(named)}" if named else "no generation"


def _evicted(outcome: dict[str, Any]) -> str:
    named, more = outcome["evicted_ids"][:5], outcome["evicted"] - 5
    shown = ", ".join(named) + (f" and {more} more" if more > 0 else "")
    return (f"{outcome['evicted']} learnt samples had left the log to stay within disk_budget, and "
            f"cannot be subtracted from the readout any more: {shown}. --deep goes back to before "
            "they came")
