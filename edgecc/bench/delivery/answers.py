"""What a node owes for the samples sent to it: a receipt and a prediction each."""

from edgecc.bench.delivery.listener import Listener, Received
from edgecc.bench.delivery.sender import LABEL_EVERY, Sender
from edgecc.errors import EdgeccError


class Answers:
    """The receipts and, where `predicted`, the predictions that have not arrived yet."""

    def __init__(self, ids: list[str], *, predicted: bool = True) -> None:
        self._receipts, self._predictions = set(ids), set(ids if predicted else ())

    def complete(self, message: Received) -> bool:
        """True once nothing is missing; a receipt other than `stored` is an error."""
        if message.topic.endswith("/prediction"):
            self._predictions.discard(message.json["sample_id"])
        else:
            for entry in message.json:
                if entry["status"] != "stored":
                    raise EdgeccError(f"a sample was not stored: {entry}")
                self._receipts.discard(entry["id"])
        return not self._receipts and not self._predictions

    def __str__(self) -> str:
        return f"{len(self._receipts)} receipts and {len(self._predictions)} predictions"


def settle(
    sender: Sender, listener: Listener, count: int, *, label_every: int = LABEL_EVERY
) -> None:
    """Send `count` samples and wait until each is stored and predicted."""
    answers = Answers(sender.send(count, label_every=label_every))
    listener.until(answers.complete, lambda: f"{answers}")
