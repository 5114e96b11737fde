"""What a node offers over the broker: its generations, by index and signed manifest, in chunks."""

from pathlib import Path
from typing import Any

from edgecc.checkpoint import generation
from edgecc.checkpoint.manifest import FILES, Manifest
from edgecc.errors import MessageError
from edgecc.mqtt.outbox import Outbox
from edgecc.protocol.messages import ChunkRequest, to_json
from edgecc.protocol.topics import Topics


class Offers:
    def __init__(self, generations: Path, topics: Topics, outbox: Outbox) -> None:
        self._folder, self._topics, self._outbox = generations, topics, outbox

    def publish(self, *, serving: int, keep: int, needed: set[int]) -> None:
        """Publish the index and every manifest, retained, once all but the newest `keep` and the
        `needed` generations are deleted."""
        for number in generation.prune(self._folder, keep, needed):
            self._outbox.retain(self._topics.manifest(number), b"")
        index = []
        for number in generation.numbers(self._folder):
            folder = self._folder / generation.name_of(number)
            manifest = generation.unsigned(folder)
            if manifest is None:
                continue  # damaged; reported when it failed to load
            self._outbox.retain(self._topics.manifest(number), generation.read_manifest(folder))
            index.append(_entry(manifest, serving))
        self._outbox.retain(self._topics / "checkpoint/index", to_json(index))

    def send(self, request: ChunkRequest) -> None:
        """Send the chunks, or pieces of chunks, that a client asked for; MessageError if there
        are none."""
        path = self._folder / generation.name_of(request.generation) / request.file
        if request.file not in FILES or not path.exists():
            raise MessageError(f"no file {request.file!r} in generation {request.generation}")
        with path.open("rb") as file:
            for index in request.chunks:
                file.seek(index * request.size)
                topic = self._topics.chunk(request.client, request.transfer, index)
                self._outbox.send(topic, file.read(request.size))


def _entry(manifest: Manifest, serving: int) -> dict[str, Any]:
    return {
        "generation": manifest.number, "digest": manifest.digest, "created": manifest.created,
        "blocks": len(manifest.blocks) - 1, "classes": len(manifest.classes),
        "cursor": manifest.cursor, "held_out": manifest.metrics.get("held_out"),
        "bytes": sum(file.size for file in manifest.files.values()),
        "serving": manifest.number == serving,
        **{name: manifest.metrics[name] for name in ("held_out_by_source", "held_out_by_run")
           if name in manifest.metrics},
    }
