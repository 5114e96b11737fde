"""A message to what it brings or asks for, or to why it is rejected. Nothing is stored here.

Whether a source may send now, and whether there is memory for one more class, is asked here alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgecc.config.schema import Config
from edgecc.errors import MessageError, shown
from edgecc.ingest.quotas import Quotas
from edgecc.protocol.decode import decode, source_of
from edgecc.protocol.messages import Decoded, Inbound, Label
from edgecc.protocol.sample import Sample


@dataclass(frozen=True)
class Rejected:
    message: Inbound
    levels: Sequence[str]  # of its topic
    reason: str
    seq: int | None = None  # its number in quarantine, if it comes from there
    keep: bool = True  # in quarantine; False where the sender has all that is in it


class Decoder:
    def __init__(
        self, config: Config, quotas: Quotas, classes: set[str], most_classes: int
    ) -> None:
        """classes: labels named so far; one that would make more than `most_classes` is refused."""
        self._topics, self._spec = config.topics, config.input
        self._quotas, self._classes, self._most_classes = quotas, classes, most_classes

    def decode(self, message: Inbound) -> Decoded | Rejected:
        """What `message` means, if its source may send it now."""
        levels = self._topics.levels(message.topic)
        source = source_of(levels)
        # a redelivery was counted when it first came
        if levels[:1] == ["in"] and source != "canary" and not message.redelivered:
            reason = self._quotas.over_rate(source)
            if reason is not None:
                return Rejected(message, levels, reason, keep=False)
        return self._decode(message, levels)

    def decode_again(self, seq: int, ts: float, message: Inbound) -> Decoded | Rejected:
        """A message out of quarantine, where it has number `seq` and arrived at `ts`."""
        message = replace(message, user={"ts": str(ts), **message.user})
        item = self._decode(message, self._topics.levels(message.topic))
        return replace(item, seq=seq) if isinstance(item, Rejected) else item

    def _decode(self, message: Inbound, levels: Sequence[str]) -> Decoded | Rejected:
        try:
            meant = decode(message, levels, self._spec)
            if isinstance(meant, Label) or (isinstance(meant, Sample) and meant.label is not None):
                self._quotas.check_label(meant.source, meant.label)
            if isinstance(meant, Sample) or (isinstance(meant, Label) and not meant.unlearn):
                self._check_room(meant.label)
        except MessageError as error:
            return Rejected(message, levels, str(error))
        return meant

    def _check_room(self, label: str | None) -> None:
        """MessageError where `label` would be one class more than there is memory for."""
        if label is None or label in self._classes:
            return
        if len(self._classes) >= self._most_classes:
            raise MessageError(
                f"label {shown(label)} would be a class more than the {self._most_classes} that "
                "memory is planned for: use a known one, or raise max_classes")
        self._classes.add(label)
