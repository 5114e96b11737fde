"""Chunks put together again, whatever the network, the disk and a kill do to them in between."""

import json
import os
import random
import resource
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgecc.checkpoint import manifest
from edgecc.checkpoint.chunks import Assembly
from edgecc.checkpoint.manifest import CHUNK
from edgecc.checkpoint.transfer import WINDOW, _Fetch
from edgecc.errors import BrokerError, Corrupt, NotRunning, StoreError
from edgecc.protocol.decode import decode
from edgecc.protocol.messages import PIECES, Inbound
from edgecc.protocol.sample import Input
from edgecc.protocol.topics import Topics

NAME = "readout.safetensors"
TOPICS = Topics("edgecc/v1", "n")
SIZES = [1, 1000, CHUNK // 2, CHUNK // 2 + 1, CHUNK, CHUNK + 1, 3 * CHUNK, 5 * CHUNK + CHUNK // 2]
WRONG: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda piece: b"",
    "a flipped bit": lambda piece: bytes([piece[0] ^ 1]) + piece[1:],
    "shorter": lambda piece: piece[:-1],
    "longer": lambda piece: piece + b"\0",
    "much longer": lambda piece: piece * 3,
    "zeros": lambda piece: bytes(len(piece)),
}
STRANGE = ["", "-1", "00", "1e3", "999999", "9" * 40, "²", "../../escaped", "/etc/passwd", "0/1"]


@dataclass
class Network:
    """What lies between a node and who pulls from it: it keeps, drops and forges as it likes."""

    max_payload: int | None
    id: str = "abc"
    asked: list[bytes] = field(default_factory=list)
    waiting: deque[Inbound] = field(default_factory=deque)

    def publish(self, topic: str, payload: bytes) -> None:
        assert topic == TOPICS / "checkpoint/get"
        self.asked.append(payload)

    def next_message(self, _timeout: float) -> Inbound | None:
        return self.waiting.popleft() if self.waiting else None


def prefix(fetch: _Fetch) -> str:
    """Of the topics on which the chunks of its first file come."""
    return f"{fetch._prefix}{next(iter(fetch._assemblies))}/"


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """The kernel lets no file grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Pull(RuleBasedStateMachine):
    """One file: in the end exactly its bytes, and on the way there nothing but named errors."""

    @initialize(size=st.sampled_from(SIZES), piece=st.sampled_from(PIECES))
    def begin(self, size: int, piece: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.wanted = random.Random(size).randbytes(size)
        self.file, self.piece = manifest.describe(self.wanted), piece
        self.open()

    def open(self) -> None:
        self.network = Network(self.piece)
        self.assembly = Assembly(self.folder / NAME, self.file)
        self.fetch = _Fetch(self.network, TOPICS, 7, [self.assembly])  # type: ignore[arg-type]

    def step(self) -> None:
        if self.assembly.missing():
            try:
                self.fetch.step()
            except (Corrupt, NotRunning):  # it gave up; whoever pulls may try again
                self.restart()

    def send(self, level: str, payload: bytes) -> None:
        self.network.waiting.append(Inbound(prefix(self.fetch) + level, payload))
        self.step()

    def piece_of(self, index: int) -> bytes:
        return self.wanted[index * self.piece : (index + 1) * self.piece]

    def pieces(self) -> int:
        return -(-len(self.wanted) // self.piece)

    @rule(data=st.data())
    def a_piece_comes(self, data: st.DataObject) -> None:
        """Asked for or not, for the first time or again."""
        index = data.draw(st.integers(0, self.pieces() - 1))
        self.send(str(index), self.piece_of(index))

    @rule(data=st.data(), wrong=st.sampled_from(sorted(WRONG)))
    def a_wrong_piece_comes(self, data: st.DataObject, wrong: str) -> None:
        index = data.draw(st.integers(0, self.pieces() - 1))
        self.send(str(index), WRONG[wrong](self.piece_of(index)))

    @rule(data=st.data())
    def a_piece_comes_as_another(self, data: st.DataObject) -> None:
        one, other = (data.draw(st.integers(0, self.pieces() - 1)) for _ in range(2))
        self.send(str(one), self.piece_of(other))

    @rule(level=st.sampled_from(STRANGE), payload=st.binary(max_size=50))
    def a_strange_topic_comes(self, level: str, payload: bytes) -> None:
        self.send(level, payload)

    @rule(payload=st.binary(max_size=50))
    def an_earlier_transfer_s_piece_comes(self, payload: bytes) -> None:
        topic = TOPICS.chunk(self.network.id, "0" * 16, 0)
        self.network.waiting.append(Inbound(topic, payload))
        self.step()

    @rule()
    def nothing_comes(self) -> None:
        self.step()

    @rule()
    def restart(self) -> None:
        """As after a kill: nothing is made durable, nothing in memory is left."""
        os.close(self.assembly._descriptor)
        self.open()

    @rule(data=st.data(), kind=st.sampled_from(["flip", "cut", "grow", "delete"]))
    def the_part_is_damaged_while_nobody_pulls(self, data: st.DataObject, kind: str) -> None:
        path = self.folder / NAME
        content = bytearray(path.read_bytes())
        if kind == "flip" and content:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1
        elif kind == "cut":
            del content[data.draw(st.integers(0, len(content))) :]
        elif kind == "grow":
            content += b"x" * data.draw(st.integers(1, CHUNK))
        if kind == "delete":
            path.unlink()
        else:
            path.write_bytes(content)
        self.restart()

    @precondition(lambda self: self.assembly.missing())
    @rule(data=st.data())
    def the_disk_is_full(self, data: st.DataObject) -> None:
        """A named error that keeps what was there; and it goes on once there is room."""
        index = data.draw(st.sampled_from(self.assembly.missing()))
        size = data.draw(st.integers(0, len(self.wanted)))
        chunk = self.wanted[index * CHUNK : (index + 1) * CHUNK]
        before = self.assembly.missing()
        with full_at(size):
            if index * CHUNK + len(chunk) <= size:
                assert self.assembly.keep(index, chunk)
                return
            with pytest.raises(StoreError, match="what has arrived so far is kept"):
                self.assembly.keep(index, chunk)
        assert self.assembly.missing() == before

    @invariant()
    def what_counts_as_here_is_right(self) -> None:
        content = (self.folder / NAME).read_bytes()
        assert len(content) <= len(self.wanted)
        for index in set(range(len(self.file.chunks))) - set(self.assembly.missing()):
            place = slice(index * CHUNK, (index + 1) * CHUNK)
            assert content[place] == self.wanted[place]

    @invariant()
    def no_name_came_from_the_wire(self) -> None:
        assert os.listdir(self.folder) == [NAME]

    @invariant()
    def what_is_asked_for_is_what_a_node_understands_and_within_bounds(self) -> None:
        for payload in self.network.asked:
            message = Inbound(TOPICS / "checkpoint/get", payload)
            request = decode(message, TOPICS.levels(message.topic), Input("image", (1, 8, 8)))
            assert (request.file, request.size) == (NAME, self.piece)  # type: ignore[union-attr]
        assert len(self.fetch._asked) <= 2 * WINDOW
        self.network.asked.clear()

    def teardown(self) -> None:
        """An honest node answers from here on, last pieces first."""
        if not hasattr(self, "folder"):
            return
        self.restart()
        with closing(self.assembly):
            while self.assembly.missing():
                self.fetch.step()  # nothing has come yet: it asks again
                for index in reversed(range(self.pieces())):
                    self.send(str(index), self.piece_of(index))
            self.assembly.check_whole()
        assert (self.folder / NAME).read_bytes() == self.wanted
        assert os.listdir(self.folder) == [NAME]
        shutil.rmtree(self.folder)


Pull.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
test_p14_chunks_in_any_order_twice_damaged_or_after_a_kill_end_as_the_exact_bytes = Pull.TestCase


def test_chunks_that_make_another_whole_than_was_vouched_for_are_corrupt(tmp_path: Path) -> None:
    file = replace(manifest.describe(b"x" * 10), sha256="0" * 64)
    with closing(Assembly(tmp_path / NAME, file)) as assembly:
        assert assembly.keep(0, b"x" * 10)
        with pytest.raises(Corrupt, match=NAME):
            assembly.check_whole()


def test_a_node_that_is_silent_or_damages_everything_is_named_after_some_tries(
    tmp_path: Path
) -> None:
    file = manifest.describe(b"x" * 10)
    for message, error in ((None, NotRunning), (b"y" * 10, Corrupt)):
        network, assembly = Network(None), Assembly(tmp_path / NAME, file)
        fetch = _Fetch(network, TOPICS, 7, [assembly])  # type: ignore[arg-type]
        if message is not None:
            network.waiting.extend([Inbound(prefix(fetch) + "0", message)] * 20)
        for _ in range(5):
            fetch.step()
        with pytest.raises(error, match=NAME):
            fetch.step()
        assert len(network.asked) == 6


def test_p14_the_next_file_is_asked_for_while_the_last_chunks_of_one_are_on_their_way(
    tmp_path: Path
) -> None:
    wanted = {"a": random.Random(1).randbytes(3 * CHUNK), "b": random.Random(2).randbytes(CHUNK)}
    network = Network(None)
    files = [Assembly(tmp_path / name, manifest.describe(data)) for name, data in wanted.items()]
    fetch = _Fetch(network, TOPICS, 7, files)  # type: ignore[arg-type]
    a, b = (f"{fetch._prefix}{transfer}/" for transfer in fetch._assemblies)
    network.waiting.extend([Inbound(a + "2", wanted["a"][2 * CHUNK :]), Inbound(b + "0", b"")])
    fetch.step()
    fetch.step()
    assert [(asked["file"], asked["chunks"]) for asked in map(json.loads, network.asked)] == [
        ("a", [0, 1, 2]), ("b", [0])]
    network.waiting.extend([
        Inbound(b + "0", wanted["b"]), Inbound(b + "1", wanted["b"]),
        Inbound(a + "0", wanted["a"][:CHUNK]), Inbound(a + "1", wanted["a"][CHUNK : 2 * CHUNK])])
    while fetch.missing:
        fetch.step()
    assert {name: (tmp_path / name).read_bytes() for name in wanted} == wanted


def test_a_broker_that_takes_no_piece_in_one_packet_is_named(tmp_path: Path) -> None:
    with closing(Assembly(tmp_path / NAME, manifest.describe(b"x"))) as assembly:
        for limit, size in ((None, PIECES[0]), (PIECES[0], PIECES[0]), (PIECES[0] - 1, PIECES[1])):
            fetch = _Fetch(Network(limit), TOPICS, 7, [assembly])  # type: ignore[arg-type]
            assert fetch._size == size
        with pytest.raises(BrokerError, match="max_packet_size"):
            _Fetch(Network(PIECES[1] - 1), TOPICS, 7, [assembly])  # type: ignore[arg-type]
