"""A node in trouble: crash points armed, deaths awaited, recovery timed, and the verdict."""

import json
import os
import random
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from support.datasets import Digits, npy
from support.live_node import Node
from support.patience import DEADLINE, exit_code, until
from support.peer import Message

from faults.checker import Checker
from faults.hook.sitecustomize import POINTS
from faults.tally import Tally

HOOK = Path(__file__).parent / "hook"
KILLED = -9  # exit code
BURST = 20  # messages between two kills


@dataclass
class Trouble:
    """Follows one node and adds what becomes of it to the tally."""

    node: Node
    tally: Tally
    digits: Digits

    def __post_init__(self) -> None:
        self.checker = Checker(self.node)
        self.crash = self.node.folder / "crash"
        self.crash.mkdir()
        self.pictures = self._endless()
        self.kills = 0
        self.children: list[subprocess.Popen[bytes]] = []  # none outlives the test
        path = os.pathsep.join([str(HOOK), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.node.environ |= {"PYTHONPATH": path, "CRASH_POINTS": str(self.crash)}

    # --- what goes in ---

    def _endless(self) -> Iterator[tuple[bytes, str]]:
        images, labels = self.digits
        while True:
            for image, label in zip(images, labels, strict=True):
                yield npy(image), str(label)

    def burst(self, count: int = BURST) -> list[str]:
        """Samples with a label, with one in a message of its own, or with none; no waiting.

        The first is then sent once more, as by a producer that is not sure.
        """
        ids: list[str] = []
        for n in range(count):
            payload, label = next(self.pictures)
            identity = f"s-{len(self.checker.sent)}"
            self.node.send(payload, id=identity, wait=False, label=label if n % 4 < 2 else None)
            if n % 4 == 2:
                self.label(identity, label)
            self.checker.sent[identity] = label if n % 4 < 3 else None
            ids.append(identity)
            if n == 0:
                first = payload, label
        self.node.send(first[0], id=ids[0], label=first[1], wait=False)
        return ids

    def label(self, identity: str, label: str) -> None:
        self.node.peer.publish(self.node.topic("in/t/label"),
                               json.dumps({"id": identity, "label": label}), wait=False)

    # --- death and what follows ---

    def arm(self, role: str, point: str, passes: int = 1) -> None:
        """Have the process of this role die at the point, once it has passed it so often."""
        part = self.crash / "part"
        part.write_text(str(passes))
        part.rename(self.crash / f"{role} {point}")

    @property
    def armed(self) -> bool:
        return any(self.crash.iterdir())

    def strike(self, role: str, point: str, passes: int, stir: Callable[[], object]) -> None:
        """Arm the point, and `stir` until the daemon has died there."""
        def struck() -> bool:
            stir()
            self.wait(0.3)
            return not self.armed

        self.arm(role, point, passes)
        until(struck, f"{role} never came to {point!r} {passes} times")

    def await_strike(self, over: Callable[[], bool]) -> bool:
        """Until the armed point has struck; False, and disarmed, where it is `over` before."""
        def outcome() -> str | None:
            if not self.armed:
                return "struck"
            return "over" if over() and self._disarmed() else None

        return until(outcome, lambda: f"not reached: {list(self.crash.iterdir())}",
                     seconds=3 * DEADLINE, every=0.1) == "struck"

    def _disarmed(self) -> bool:
        """Of the process and us, one removes the file: False where it was the process, and dies."""
        for path in self.crash.iterdir():
            with suppress(FileNotFoundError):
                path.unlink()
                return True
        return False

    def until(self, true: Callable[[], object]) -> None:
        """Wait for what no message tells; the daemon lives on meanwhile."""
        until(lambda: true() or self.wait(0.1) is not None, lambda: self.node.output[-3000:])
        assert self.wait(0.0) is None, self.node.output[-3000:]

    def wait(self, timeout: float) -> int | None:
        """The daemon's exit code, where it ends within `timeout` seconds."""
        assert self.node.process is not None
        try:
            return self.node.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def count(self, where: str) -> None:
        self.kills += 1
        self.tally.kills[where] += 1

    def revive(self) -> float:
        """The daemon is dead, or about to be: look into its log, and start it; when it died."""
        assert self.node.process is not None
        assert exit_code(self.node.process) == KILLED, self.node.output[-3000:]
        died = time.monotonic()
        self.checker.look()
        self.node.launch()
        return died

    def start(self) -> None:
        """The daemon, until it answers; it may have said `online` before its peer listened."""
        self.node.launch()
        self.await_answer()

    def await_answer(self) -> None:
        """Until what was published before is taken in; asked again where nobody listens yet."""
        node, token, heard = self.node, secrets.token_hex(8), len(self.node.peer.messages)
        ping, pong = node.topic("command/ping"), node.topic("response/ping")

        def answer() -> Message | None:
            node.peer.publish(ping, json.dumps({"id": token}), wait=False)
            return node.peer.find(lambda m: m.topic == pong and m.json["id"] == token,
                                  after=heard, timeout=1.0)

        until(answer, lambda: node.output[-3000:], seconds=3 * DEADLINE)

    def bury(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()

    def recover(self) -> None:
        """The same, and time its first prediction."""
        heard = len(self.node.peer.messages)
        died = self.revive()
        self.node.prediction(self.burst(1)[0], after=heard)
        self.tally.recoveries.append(time.monotonic() - died)

    # --- the verdict ---

    def settle(self) -> None:
        """Once everything has arrived: nothing lost, duplicated or broken."""
        self.checker.await_stored()
        lost, twice = self.checker.lost(), self.checker.duplicated()
        broken = self.checker.broken()
        self.tally.messages += len(self.checker.sent)
        self.tally.generations += self.checker.generations
        self.tally.lost += len(lost)
        self.tally.duplicated += len(twice)
        self.tally.broken += len(broken)
        assert (lost, twice, broken) == (set(), set(), set()), f"{lost=} {twice=} {broken=}"


def plan(
    roles: list[str], kills: int, seed: int, *, random_share: float = 0.3
) -> list[tuple[str, str | None, int]]:
    """(role, point or None for any moment, passes): all points of these roles in turn, shuffled."""
    moments = random.Random(seed)
    points = [(role, point) for role in roles for point in POINTS[role]]
    chosen: list[tuple[str, str | None, int]] = []
    while len(chosen) < kills:
        moments.shuffle(points)
        chosen += [(role, point, moments.choice((1, 1, 2, 5))) for role, point in points]
        extra = int(len(points) * random_share / (1 - random_share)) + 1
        chosen += [(moments.choice(roles), None, 1) for _ in range(extra)]
    return chosen[:kills]


MakeTrouble = Callable[..., Trouble]  # what the fixture make_trouble is
