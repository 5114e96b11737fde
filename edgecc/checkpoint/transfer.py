"""Checkpoints over MQTT: the receiver asks for the chunks it misses, and checks each one.

Only a verified generation ever appears under its final name. No file name is taken from the wire:
the names of a checkpoint's three files are fixed.
"""

import hashlib
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from nacl.signing import VerifyKey

from edgecc.checkpoint import generation, manifest, signing
from edgecc.checkpoint.chunks import Assembly
from edgecc.checkpoint.generation import MANIFEST
from edgecc.checkpoint.manifest import CHUNK, FILES, Manifest
from edgecc.errors import BrokerError, CheckpointError, Corrupt, NotRunning, Untrusted
from edgecc.host import files
from edgecc.mqtt.client import Client
from edgecc.protocol.messages import PIECES, to_json
from edgecc.protocol.topics import Topics

WINDOW = 16  # chunks asked for and not here yet
_PATIENCE = 5.0  # seconds without a chunk before asking again
_TRIES = 6
_EXPIRY = 60  # seconds after which the broker may drop a chunk

Progress = Callable[[int, int], None]


def pull(
    client: Client, topics: Topics, number: int, *, folder: Path, trusted: list[VerifyKey],
    progress: Progress,
) -> Manifest:
    """Fetch generation `number` into `folder`/<number>; resumes what an earlier pull left.

    Nothing here waits for the disk: digests show what a power cut tore, and it is fetched again.
    """
    envelope = client.retained(topics.manifest(number))
    if envelope is None:
        raise CheckpointError(f"{topics.root} offers no generation {number}; see checkpoint list")
    offered = manifest.parse(signing.open_envelope(envelope, trusted))
    if offered.number != number:
        raise Untrusted(f"asked for generation {number}, offered {offered.number}")
    target = folder / generation.name_of(number)
    part = folder / f"{generation.name_of(number)}.part"
    if target.exists():
        before = _pulled_before(target, trusted)
        if before is not None and before.digest != offered.digest:
            raise CheckpointError(f"{target} holds another generation {number}; pull elsewhere")
        if before is not None:
            return before
        with files.store_errors(target):
            shutil.rmtree(part, ignore_errors=True)
            target.rename(part)
    with files.store_errors(part):
        part.mkdir(parents=True, exist_ok=True)
    _fetch_files(client, topics, offered, part, progress)
    with files.store_errors(part):
        generation.check(offered, {name: (part / name).read_bytes() for name in FILES})
        (part / MANIFEST).write_bytes(envelope)
        part.rename(target)
    return offered


def push(
    client: Client, topics: Topics, folder: Path, *, force: bool, timeout: float,
    progress: Progress,
) -> dict[str, Any]:
    """Send the generation in `folder` to the node, which checks and tries it; returns its answer.

    The node asks for chunks by their digests, and decides whether it trusts who signed them.
    """
    envelope = generation.read_manifest(folder)
    offered = manifest.parse(signing.payload_of(envelope))
    places = {digest: (folder / name, index) for name, file in offered.files.items()
              for index, digest in enumerate(file.chunks)}
    args = {"manifest": envelope.decode(), "force": force}
    _check_fits(client, max(len(to_json(args)), CHUNK))
    total, least, tries = sum(file.size for file in offered.files.values()), len(places) + 1, 0
    while "wants" in (answer := dict(client.command("push", args, timeout=timeout))):
        progress(max(0, total - answer["missing"] * CHUNK), total)
        tries = 0 if answer["missing"] < least else tries + 1
        least = min(least, answer["missing"])
        if tries == _TRIES:
            raise NotRunning(f"chunks do not reach {topics.root}: only an operator may publish on "
                             f"{topics / 'checkpoint/put'}")
        _send(client, topics, {digest: places[digest] for digest in answer["wants"]})
    return answer


def _send(client: Client, topics: Topics, places: dict[str, tuple[Path, int]]) -> None:
    """Send chunks within the broker's window; Corrupt where one does not match its digest."""
    under_way: deque[int] = deque()
    for digest, (path, index) in places.items():
        with path.open("rb") as file:
            file.seek(index * CHUNK)
            chunk = file.read(CHUNK)
        if hashlib.sha256(chunk).hexdigest() != digest:
            raise Corrupt(f"{path}: chunk {index} is not what the manifest says")
        if len(under_way) == client.window:
            client.arrived(under_way.popleft(), wait=True)
        under_way.append(client.publish(topics / "checkpoint/put", chunk, expiry=_EXPIRY))
    for mid in under_way:
        client.arrived(mid, wait=True)


def _check_fits(client: Client, size: int) -> None:
    if client.max_payload is not None and size > client.max_payload:
        raise BrokerError(f"the broker takes at most {client.max_payload} bytes of payload, this "
                          f"needs {size}: raise its max_packet_size")


def _pulled_before(target: Path, trusted: list[VerifyKey]) -> Manifest | None:
    """The manifest of what an earlier pull left; None where it was damaged since."""
    try:
        return generation.load(target, trusted).manifest
    except Corrupt:
        return None
    except Untrusted as error:  # its key was revoked since, or never was this node's
        raise Untrusted(f"{target}: {error}; delete that folder to pull it again") from error


def _fetch_files(
    client: Client, topics: Topics, offered: Manifest, part: Path, progress: Progress
) -> None:
    total = sum(file.size for file in offered.files.values())
    chunks = topics.chunk(client.id, "+", "+")
    client.subscribe([chunks])
    with ExitStack() as opened:
        assemblies = [opened.enter_context(closing(Assembly(part / name, file)))
                      for name, file in sorted(offered.files.items())]
        fetch = _Fetch(client, topics, offered.number, assemblies)
        while fetch.missing:
            fetch.step()
            progress(sum(assembly.size for assembly in assemblies), total)
        for assembly in assemblies:
            assembly.check_whole()
    client.unsubscribe([chunks])


class _Fetch:
    """Fetches the chunks of files; always has some under way, so that neither side waits."""

    def __init__(
        self, client: Client, topics: Topics, number: int, assemblies: Sequence[Assembly]
    ) -> None:
        self._client, self._topics, self._number = client, topics, number
        self._size = _piece_size(client)
        self._assemblies = {secrets.token_hex(8): one for one in assemblies}  # by transfer
        self._prefix = topics / f"checkpoint/data/{client.id}/"
        self._asked: dict[tuple[str, int], dict[int, bytes]] = {}  # pieces that have come, by chunk
        self._tries = 0

    @property
    def missing(self) -> list[str]:
        """The transfers that are not complete."""
        return [transfer for transfer, one in self._assemblies.items() if not one.whole]

    def step(self) -> None:
        """Ask for what is missing, take in one message."""
        if len(self._asked) <= WINDOW:
            self._ask()
        message = self._client.next_message(_PATIENCE)
        if message is None:
            self._asked.clear()
            name = self._assemblies[self.missing[0]].path.name
            self._again(NotRunning(f"{self._topics.root} sends no chunks of {name}"))
        elif message.topic.startswith(self._prefix):
            transfer, _, level = message.topic.removeprefix(self._prefix).partition("/")
            self._take(transfer, level, message.payload)

    def _ask(self) -> None:
        """Ask for chunks of the first file that has some which were not asked for."""
        for transfer in self.missing:
            missing = self._assemblies[transfer].missing()
            wanted = [index for index in missing if (transfer, index) not in self._asked]
            if wanted:
                self._request(transfer, wanted[:WINDOW])
                return

    def _request(self, transfer: str, wanted: list[int]) -> None:
        assembly = self._assemblies[transfer]
        self._asked |= {(transfer, index): {} for index in wanted}
        pieces = [piece for index in wanted for piece in self._pieces(assembly, index)]
        self._client.publish(self._topics / "checkpoint/get", to_json({
            "client": self._client.id, "transfer": transfer, "size": self._size,
            "generation": self._number, "file": assembly.path.name, "chunks": pieces,
        }))

    def _take(self, transfer: str, level: str, payload: bytes) -> None:
        """Take a piece that was asked for; with its last piece a chunk is written or refused."""
        piece = int(level) if level.isdecimal() else -1
        index = piece * self._size // CHUNK
        come = self._asked.get((transfer, index))
        if come is None:
            return
        come[piece], assembly = payload, self._assemblies[transfer]
        if len(come) < len(self._pieces(assembly, index)):
            return
        del self._asked[transfer, index]
        if assembly.keep(index, b"".join(come[piece] for piece in sorted(come))):
            self._tries = 0
        else:
            self._again(Corrupt(f"chunk {index} of {assembly.path.name} keeps arriving damaged"))

    def _pieces(self, assembly: Assembly, index: int) -> range:
        """The pieces of chunk `index`, numbered through the file."""
        end = min((index + 1) * CHUNK, assembly.file.size)
        return range(index * CHUNK // self._size, -(-end // self._size))

    def _again(self, error: Exception) -> None:
        self._tries += 1
        if self._tries == _TRIES:
            raise error


def _piece_size(client: Client) -> int:
    """The largest size of a piece that the broker takes in one packet."""
    large, small = PIECES
    if client.max_payload is None or large <= client.max_payload:
        return large
    _check_fits(client, small)
    return small
