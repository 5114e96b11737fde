"""Which samples to unlearn, as an operator or a producer names them: by id, source or time."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edgecc.errors import ConfigError, MessageError, shown
from edgecc.protocol.messages import Command
from edgecc.protocol.topics import check_source

_WANTED = 'unlearn needs {"args": {"ids": [..]}}, or "source", "since" (seconds since 1970) or both'
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True)
class Selection:
    """Samples with these ids; or those of a source, from a time on, or both."""

    ids: tuple[str, ...] = ()
    source: str | None = None
    since: float | None = None
    deep: bool = False  # also what was trained on them
    unseen: bool = False  # ids that never came are kept out too, should they come

    def has(self, identity: str, source: str, ts: float) -> bool:
        if self.ids:
            return identity in self.ids
        return self.source in (None, source) and (self.since is None or ts >= self.since)


def asked_by(command: Command) -> dict[str, Any]:
    """What must be known of a command to answer it, perhaps after a restart."""
    correlation = None if command.correlation is None else command.correlation.hex()
    return {"args": dict(command.args), "reply": {
        "id": command.id, "response_topic": command.response_topic, "correlation": correlation}}


def asker(reply: Mapping[str, Any]) -> Command:
    """The command that `asked_by` noted."""
    correlation = reply["correlation"]
    return Command(
        "unlearn", reply["id"], {}, reply["response_topic"],
        None if correlation is None else bytes.fromhex(correlation), retain=False,
    )


def parse(args: Mapping[str, Any]) -> Selection:
    """The selection in a command's arguments, or a MessageError."""
    ids, source, since = args.get("ids", []), args.get("source"), args.get("since")
    if not isinstance(ids, list) or not all(isinstance(one, str) and one for one in ids):
        raise MessageError(f"ids {shown(ids)}: {_WANTED}")
    if source is not None:
        check_source(str(source))
    if since is not None and (type(since) not in (int, float) or not 0 <= since < 1e11):
        raise MessageError(f"since {shown(since)}: {_WANTED}")
    if bool(ids) == (source is not None or since is not None):
        raise MessageError(_WANTED)
    return Selection(
        tuple(dict.fromkeys(ids)), source, since, deep=args.get("deep") is True,
        unseen=args.get("unseen") is True,
    )


def since_seconds(text: str) -> float:
    """Seconds since 1970: of a date and time, local unless it says otherwise, or so long ago."""
    if ago := re.fullmatch(r"(\d+)([smhdw])", text):
        return time.time() - int(ago[1]) * _UNITS[ago[2]]
    try:
        return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else (
            datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"--since {text!r} is not a time: 2025-01-31, '2025-01-31 18:30', 3h, 2d, or seconds "
            "since 1970"
        ) from error
