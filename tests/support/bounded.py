"""Decodes messages, each in a process that may take so many bytes and seconds more, or dies.

On standard input a line of JSON and the payload, for each message; a line for each on output.
"""

import io
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from edgecc.errors import MessageError
from edgecc.protocol import sample as samples
from edgecc.protocol.decode import decode
from edgecc.protocol.messages import Inbound
from edgecc.protocol.sample import Input
from edgecc.protocol.topics import Topics

SPEC = Input("image", (3, 64, 64))
TOPICS = Topics("edgecc/v1", "n")


def warm_up() -> None:
    """What decoding imports is not what a message takes."""
    for kind in ("PNG", "JPEG"):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, kind)
        samples.decode(file.getvalue(), None, SPEC)
    message = Inbound(TOPICS / "in/a/sample", b"\x00", content_type="application/cbor")
    try:
        decode(message, TOPICS.levels(message.topic), SPEC)
    except MessageError:
        return
    raise AssertionError("a number passes for an envelope")


def confine(mib: float, seconds: int) -> None:
    status = Path("/proc/self/status").read_text()
    data = int(status.split("VmData:")[1].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (int(data + mib * 2**20),) * 2)
    spent = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds + 1,) * 2)


def take_in(topic: str, content_type: str | None, payload: bytes) -> str:
    message = Inbound(TOPICS / topic, payload, content_type=content_type)
    try:
        meant: Any = decode(message, TOPICS.levels(message.topic), SPEC)
    except MessageError as error:
        return f"refused: {error}"
    return str(meant.x.shape if hasattr(meant, "x") else meant)


def serve() -> None:
    """Each message in a process of its own, forked with everything imported."""
    while line := sys.stdin.buffer.readline():
        asked = json.loads(line)
        payload = sys.stdin.buffer.read(asked["size"])
        child = os.fork()
        if not child:
            confine(asked["mib"], asked["seconds"])
            print(take_in(asked["topic"], asked["content_type"], payload), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(f"died: {status}", flush=True)


if __name__ == "__main__":
    warm_up()
    serve()
