"""Topic names of one node, in one place. Labels in topics are percent-encoded."""

import re
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote, unquote

from edgecc.errors import ConfigError, MessageError

_ID = re.compile(r"[a-z0-9-]{1,64}")


def check_id(value: str, what: str) -> str:
    if not _ID.fullmatch(value):
        raise ConfigError(f"{what} {value!r} must be 1 to 64 of a-z, 0-9 and '-'")
    return value


def check_source(source: str) -> None:
    if not _ID.fullmatch(source):
        raise MessageError(f"source {source[:80]!r} must be 1 to 64 of a-z, 0-9 and '-'")


def encode_label(label: str) -> str:
    return quote(label, safe=" !\"&'()*,.:;<=>?@[]^`{|}~$\\")


def decode_label(level: str) -> str:
    try:
        return unquote(level, errors="strict")
    except UnicodeDecodeError as error:
        raise MessageError(f"label {level!r} in the topic is not UTF-8") from error


@dataclass(frozen=True)
class Topics:
    """Everything a node listens to or publishes, below `<prefix>/<node>`."""

    prefix: str
    node: str

    @cached_property
    def root(self) -> str:
        return f"{self.prefix}/{self.node}"

    def __truediv__(self, rest: str) -> str:
        return f"{self.root}/{rest}"

    def sample(self, source: str, label: str | None = None) -> str:
        topic = self / f"in/{source}/sample"
        return topic if label is None else f"{topic}/{encode_label(label)}"

    def label(self, source: str) -> str:
        return self / f"in/{source}/label"

    def out(self, source: str, kind: str) -> str:
        return self / f"out/{source}/{kind}"

    def manifest(self, generation: int) -> str:
        return self / f"checkpoint/{generation}/manifest"

    def chunk(self, client: str, transfer: str, index: int | str) -> str:
        return self / f"checkpoint/data/{client}/{transfer}/{index}"

    def subscriptions(self) -> list[str]:
        """What the daemon subscribes to."""
        kinds = ["in/+/sample", "in/+/sample/+", "in/+/label", "in/canary"]
        return [self / rest for rest in [*kinds, "command/+", "checkpoint/get", "checkpoint/put"]]

    def levels(self, topic: str) -> list[str]:
        """Levels of `topic` below the node's root; none for a topic of another node."""
        root = self.root + "/"
        return topic[len(root) :].split("/") if topic.startswith(root) else []
