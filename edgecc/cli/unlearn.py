"""`edgecc samples unlearn`: what it would do, a question, what it did."""

import json
import secrets
from collections.abc import Iterable
from typing import Any

import click

from edgecc.config.schema import Config
from edgecc.errors import EdgeccError, NotRunning
from edgecc.mqtt.client import Client
from edgecc.protocol.selection import since_seconds
from edgecc.protocol.topics import check_id

_PATIENCE = 20.0  # seconds before asking again, under the same id
_TRIES = 30


def unlearn(
    config: Config, ids: tuple[str, ...], *, source: str | None, since: str | None, deep: bool,
    yes: bool, as_json: bool,
) -> None:
    """Print what was unlearnt, and what the samples still have a part in."""
    args = _arguments(ids, source, since) | {"deep": deep}
    with Client(config) as client:
        if client.retained(config.topics / "status") == b"offline":
            raise NotRunning(
                f"{config.node} is offline, and only its daemon writes to its log: run "
                "`edgecc start` there, then this again"
            )
        found = client.command("unlearn", args | {"preview": True})
        if _anything(found, config, deep=deep):
            if not yes:
                click.echo(_would(found, deep=deep), err=True)
                click.confirm("There is no way back. Go on?", abort=True, err=True)
            found = _done(client, config, args)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_told(found, deep=deep)))
    if found["evicted"] and not deep:
        click.echo(_evicted(found), err=True)


def _arguments(ids: tuple[str, ...], source: str | None, since: str | None) -> dict[str, Any]:
    if bool(ids) == bool(source or since):
        raise click.UsageError("name samples by ID, or by --source, --since or both")
    if ids:
        return {"ids": list(ids)}
    args: dict[str, Any] = {} if source is None else {"source": check_id(source, "--source")}
    return args if since is None else args | {"since": since_seconds(since)}


def _anything(found: dict[str, Any], config: Config, *, deep: bool) -> bool:
    """False where there is nothing to do; an error where that is not what was meant."""
    there = ["samples", "pending", "quarantined", *(["already", "evicted"] if deep else [])]
    if any(found[what] for what in there):
        return True
    if found["evicted"]:
        raise EdgeccError(_evicted(found))
    if found["unknown"]:
        raise EdgeccError(
            f"the log of {config.node} knows no sample {', '.join(found['unknown'])}; see "
            "`edgecc samples list`"
        )
    return False


def _done(client: Client, config: Config, args: dict[str, Any]) -> dict[str, Any]:
    """The node's answer; asked again under the same id, since it may have been started anew."""
    request = secrets.token_hex(8)
    for _ in range(_TRIES):
        try:
            found: dict[str, Any] = client.command(
                "unlearn", args, timeout=_PATIENCE, request=request)
            return found
        except NotRunning:
            click.echo("not done yet", err=True)
    raise NotRunning(
        f"{config.node} has not answered for {_TRIES * _PATIENCE:.0f} s. If it heard of this, it "
        "goes on with it, over restarts too; its event `unlearnt` says when it is done"
    )


def _would(found: dict[str, Any], *, deep: bool) -> str:
    lines = [f"Would unlearn and erase {_what(found)}."]
    if deep and found["removed"]:
        lines.append(f"Would delete {_generations(found['removed'])} and grow again without them.")
    return "\n".join(lines)


def _told(found: dict[str, Any], *, deep: bool) -> list[str]:
    lines = [f"unlearnt and erased: {_what(found)}"]
    if found.get("copies_possible"):
        lines.append("the log is too large to be rewritten now: parts of what was erased may be "
                     "left in unused space of log.sqlite (docs/unlearning.md)")
    if "base" in found:
        base = "nothing" if found["base"] is None else f"generation {found['base']}"
        lines.append(f"{base} serves; deleted: {_generations(found['removed'])}")
        again = ", ".join(map(str, found["growths_again"])) or "none"
        lines.append(f"growths started again without them: {again}")
        if found["not_relearnt"]:
            lines.append(f"{found['not_relearnt']} other samples had left the log: the readout is "
                         "without them now, until a growth has ended")
    elif not deep:
        lines += _left(found)
    return lines


def _left(found: dict[str, Any]) -> list[str]:
    """What is still there of the samples, after their labels and pictures are not."""
    by, lines = found["generations"], []
    said = {
        "trained": "blocks were trained on some of them",
        "scaled": "the sensor's scale was measured on some of them",
        "judged": "some, held out, only judged them and set penalty and temperature",
        "readout": "the saved readout knows them (it is not served again)",
    }
    for part, what in said.items():
        if by[part]:
            lines.append(f"{_generations(by[part], found['serving'])}: {what}")
    if by["trained"] or by["scaled"] or by["judged"]:
        lines.append("--deep deletes these generations, and grows again without the samples")
    return lines


def _what(found: dict[str, Any]) -> str:
    parts = [f"{found['samples']} samples ({found['labelled']} labelled, {found['held_out']} of "
             "these held out)"]
    parts += [f"{found[name]} {words}" for name, words in (
        ("pending", "waiting labels"), ("quarantined", "messages in quarantine"),
        ("already", "unlearnt before")) if found[name]]
    if found["evicted"]:
        parts.append(f"{found['evicted']} that had left the log")
    return ", ".join(parts)


def _generations(numbers: Iterable[int], serving: int | None = None) -> str:
    named = [f"{n} (serving)" if n == serving else str(n) for n in numbers]
    return f"generations {', '.join(named)}" if named else "no generation"


def _evicted(found: dict[str, Any]) -> str:
    named, more = found["evicted_ids"][:5], found["evicted"] - 5
    shown = ", ".join(named) + (f" and {more} more" if more > 0 else "")
    return (f"{found['evicted']} learnt samples had left the log to stay within disk_budget, and "
            f"cannot be subtracted from the readout any more: {shown}. --deep goes back to before "
            "they came")
