"""What a message means to this node: what it brings or asks for, or why it is rejected."""

from dataclasses import dataclass, replace

from edgecc.config.schema import Config
from edgecc.errors import MessageError, shown
from edgecc.ingest.quotas import Admission
from edgecc.protocol.messages import Decoded, Inbound, Label, decode, source_of
from edgecc.protocol.sample import Sample


@dataclass
class Rejected:
    message: Inbound
    reason: str
    seq: int | None = None  # its number in quarantine, where it is from there
    keep: bool = True  # in quarantine; else the sender has all there is of it


class Decoding:
    """classes: labels named so far; one that would be more than `most_classes` is refused."""

    def __init__(
        self, config: Config, admission: Admission, classes: set[str], most_classes: int
    ) -> None:
        self._topics, self._spec = config.topics, config.input_spec
        self._admission, self._classes, self._most_classes = admission, classes, most_classes

    def of(self, message: Inbound) -> Decoded | Rejected:
        """What `message` means, where its source may send it now; sent again by the broker, it
        counted before."""
        named = source_of(message, self._topics)
        counts = message.topic.startswith(self._topics / "in/") and not message.redelivered
        reason = self._admission.over_rate(named) if counts and named != "canary" else None
        return self._decoded(message) if reason is None else Rejected(message, reason, keep=False)

    def again(self, seq: int, ts: float, message: Inbound) -> Decoded | Rejected:
        """Out of quarantine; where a message did not say when it is from, then when it came."""
        item = self._decoded(replace(message, user={"ts": str(ts), **message.user}))
        return Rejected(message, item.reason, seq) if isinstance(item, Rejected) else item

    def one_too_many(self, label: str | None) -> str | None:
        """Why `label` is refused, where it would be one class more than there is memory for."""
        if label is not None and label not in self._classes:
            if len(self._classes) >= self._most_classes:
                return (f"label {shown(label)} would be a class more than the {self._most_classes} "
                        "that memory is planned for: use a known one, or raise max_classes")
            self._classes.add(label)
        return None

    def _decoded(self, message: Inbound) -> Decoded | Rejected:
        try:
            meant = decode(message, topics=self._topics, spec=self._spec)
            if isinstance(meant, Label) or (isinstance(meant, Sample) and meant.label is not None):
                self._admission.check_label(meant.source, meant.label)
        except MessageError as error:
            return Rejected(message, str(error))
        if isinstance(meant, Sample) and (reason := self.one_too_many(meant.label)):
            return Rejected(message, reason)
        return meant
