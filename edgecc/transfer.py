"""Checkpoints over MQTT: the receiver asks for the chunks it misses, and checks each one.

Nothing but a verified generation ever appears under its final name. No file name is taken from
the wire: a checkpoint has the three files that a checkpoint has.
"""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from nacl.signing import VerifyKey

from edgecc import generation, manifest, signing
from edgecc.client import Client
from edgecc.errors import CheckpointError, MessageError, NotRunning, Untrusted
from edgecc.generation import MANIFEST, Generation
from edgecc.manifest import CHUNK, FILES, File, Manifest
from edgecc.messages import ChunkRequest, to_json
from edgecc.outbox import Outbox
from edgecc.topics import Topics

WINDOW = 16  # chunks asked for at once
_PATIENCE = 5.0  # seconds without a chunk before asking again
_TRIES = 6
_EXPIRY = 60  # seconds after which the broker may drop a chunk

Progress = Callable[[int, int], None]


def serve(request: ChunkRequest, folder: Path, topics: Topics, outbox: Outbox) -> None:
    """Send the chunks asked for out of the generation in `folder`."""
    if request.file not in FILES or not (folder / request.file).exists():
        raise MessageError(f"no file {request.file!r} in generation {request.generation}")
    with (folder / request.file).open("rb") as file:
        for index in request.chunks:
            file.seek(index * CHUNK)
            topic = topics.chunk(request.client, request.transfer, index)
            outbox.send(topic, file.read(CHUNK), expiry=_EXPIRY)


def pull(
    client: Client, topics: Topics, number: int, *, folder: Path, trusted: list[VerifyKey],
    progress: Progress,
) -> Generation:
    """Fetch generation `number` into `folder`/<number>; resumes what an earlier pull left."""
    envelope = client.retained(topics.manifest(number))
    if envelope is None:
        raise CheckpointError(f"{topics.root} offers no generation {number}; see checkpoint list")
    offered = manifest.parse(signing.open_envelope(envelope, trusted))
    if offered.number != number:
        raise Untrusted(f"asked for generation {number}, offered {offered.number}")
    target = folder / generation.name_of(number)
    if target.exists():
        found = _pulled_before(target, trusted)
        if found.manifest.digest != offered.digest:
            raise CheckpointError(f"{target} holds another generation {number}; pull elsewhere")
        return found
    part = folder / f"{generation.name_of(number)}.part"
    part.mkdir(parents=True, exist_ok=True)
    _fetch_files(client, topics, offered, part, progress)
    (part / MANIFEST).write_bytes(envelope)
    generation.load(part, trusted)
    part.rename(target)
    return generation.load(target, trusted)


def _pulled_before(target: Path, trusted: list[VerifyKey]) -> Generation:
    try:
        return generation.load(target, trusted)
    except Untrusted as error:  # its key was revoked since, or never was this node's
        raise Untrusted(f"{target}: {error}; delete that folder to pull it anew") from error


def _fetch_files(
    client: Client, topics: Topics, offered: Manifest, part: Path, progress: Progress
) -> None:
    total = sum(file.size for file in offered.files.values())
    done = 0
    for name, file in sorted(offered.files.items()):
        fetch = _Fetch(client, topics, number=offered.number, file=file, path=part / name)
        for came in fetch.windows():
            progress(done + came, total)
        done += file.size


class _Fetch:
    """One file: written at offset, with a list of the chunks that are there and verified."""

    def __init__(
        self, client: Client, topics: Topics, *, number: int, file: File, path: Path
    ) -> None:
        self._client, self._topics, self._number = client, topics, number
        self._file, self._path = file, path
        self._transfer = secrets.token_hex(8)
        self._have = self._verified()

    def windows(self) -> Iterator[int]:
        """Fetch what is missing, a window at a time; yields the bytes that are there."""
        prefix = self._topics.chunk(self._client.id, self._transfer, "")
        self._client.subscribe([prefix + "+"])
        tries = 0
        while missing := self._missing()[:WINDOW]:
            came = self._window(missing, prefix)
            tries = 0 if came else tries + 1
            if tries == _TRIES:
                raise NotRunning(f"{self._topics.root} sends no chunks of {self._path.name}")
            yield min(len(self._have) * CHUNK, self._file.size)
        self._client.unsubscribe([prefix + "+"])

    def _window(self, missing: list[int], prefix: str) -> int:
        """Ask once and take what comes; how many good chunks that were."""
        self._client.publish(self._topics / "checkpoint/get", to_json({
            "client": self._client.id, "transfer": self._transfer, "generation": self._number,
            "file": self._path.name, "chunks": missing,
        }))
        wanted, came = set(missing), 0
        while wanted:
            message = self._client.next_message(_PATIENCE)
            if message is None:
                return came
            index = message.topic.removeprefix(prefix)
            if index.isdigit() and int(index) in wanted and self._keep(int(index), message.payload):
                wanted.discard(int(index))
                came += 1
        return came

    def _keep(self, index: int, chunk: bytes) -> bool:
        """Write a chunk where it belongs; a corrupt one is not written and is asked for again."""
        if hashlib.sha256(chunk).hexdigest() != self._file.chunks[index]:
            return False
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, chunk, index * CHUNK)
        finally:
            os.close(descriptor)
        self._have.add(index)
        return True

    def _missing(self) -> list[int]:
        return [i for i in range(len(self._file.chunks)) if i not in self._have]

    def _verified(self) -> set[int]:
        """Chunks of an interrupted pull that are already here, by their digests."""
        if not self._path.exists():
            return set()
        if self._path.stat().st_size > self._file.size:
            os.truncate(self._path, self._file.size)
        found = manifest.describe(self._path.read_bytes()).chunks
        both = enumerate(zip(found, self._file.chunks, strict=False))
        return {index for index, (here, wanted) in both if here == wanted}
