"""`edgecc stream` as a process that may be killed, and is run again as its user would."""

import base64
import json
import os
import subprocess
import sys
from contextlib import suppress

from support.patience import DEADLINE, Patience, exit_code

from edgecc.mqtt.backoff import LAST
from faults.trouble import KILLED, Trouble

NO_RECEIPTS, NO_BROKER = 69, 75  # exit codes
_ITEMS = 200


class Producer:
    """Streams a file of its own to the node, to the end however often it is interrupted."""

    def __init__(self, trouble: Trouble, number: int) -> None:
        self._trouble, self._ids = trouble, [f"p{number}-{n}" for n in range(_ITEMS)]
        node = trouble.node
        self._file = node.folder / f"p{number}.jsonl"
        self._file.write_text("".join(self._line(identity) for identity in self._ids))
        self._command = [sys.executable, "-m", "edgecc", "--config", str(node.config), "stream",
                         "--rate", "300", str(self._file)]
        self._process: subprocess.Popen[bytes] | None = None

    def _line(self, identity: str) -> str:
        payload, label = next(self._trouble.pictures)
        self._trouble.checker.sent[identity] = label
        return json.dumps({"id": identity, "label": label, "content_type": "application/x-npy",
                           "data": base64.b64encode(payload).decode()}) + "\n"

    def start(self) -> None:
        with (self._trouble.node.folder / "producer.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log,
                env=os.environ | self._trouble.node.environ)
        self._trouble.children.append(self._process)

    def run(self) -> int:
        """To its end; its exit code."""
        if self._process is None:
            self.start()
        assert self._process is not None
        code = exit_code(self._process, 3 * DEADLINE)
        self._process = None
        return code

    def kill(self, after: float) -> None:
        """SIGKILL once it has run for so many seconds; it may have ended by then."""
        self.start()
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(after)
        self._process.kill()
        if self.run() == KILLED:
            self._trouble.count("producer at random")

    def finish(self) -> None:
        """Run until it says that all has its receipt. It cannot while the broker is away, or the
        node, which waits ever longer for a broker that dies again and again [P8]."""
        patience = Patience(LAST + 3 * DEADLINE)
        while (code := self.run()) != 0:
            said = (self._trouble.node.folder / "producer.log").read_text()
            assert code in (NO_BROKER, NO_RECEIPTS), said
            assert patience.lasts, "it never ends"
        self._trouble.checker.receipted |= set(self._ids)
