"""A hundred thousand messages that mean nothing: survived, in bounded memory."""

import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from support.brokers import Broker
from support.datasets import npy

from faults.trouble import MakeTrouble, Trouble

MIB = 2**20
ALLOWED = 5 * MIB  # growth of the daemon's resident memory
AHEAD = 2000  # messages sent and not yet taken
Made = tuple[str, bytes]


def test_malformed_messages_are_survived_in_bounded_memory(
    broker: Broker, make_trouble: MakeTrouble, full: bool
) -> None:
    count, warm_up = (100_000, 5_000) if full else (3_000, 1_000)
    trouble = make_trouble(broker.port)
    node = trouble.node
    node.start()
    trouble.burst(100)
    trouble.checker.await_stored()
    messages = malformed(random.Random(5))
    flood(trouble, messages, warm_up)  # what is used again and again is allocated then
    before = resident(trouble)
    flood(trouble, messages, count)
    growth = resident(trouble) - before
    trouble.tally.malformed += warm_up + count
    trouble.tally.growth = growth / MIB
    trouble.burst(100)
    trouble.settle()
    assert growth <= ALLOWED, f"{growth / MIB:.1f} MiB"
    assert node.stop() == 0, node.output


def flood(trouble: Trouble, messages: Iterator[Made], count: int) -> None:
    """Send so many, and have them taken in."""
    node = trouble.node
    for number in range(1, count + 1):
        topic, payload = next(messages)
        node.peer.publish(node.topic(topic), payload, wait=False)
        if number % AHEAD == 0 or number == count:
            trouble.await_answer()


def resident(trouble: Trouble) -> int:
    """Bytes of the daemon in memory, and no learner's."""
    assert trouble.node.process is not None
    status = Path(f"/proc/{trouble.node.process.pid}/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def malformed(draws: random.Random) -> Iterator[Made]:
    """Topics below the node's root, and payloads, all wrong in some way, without end."""
    while True:
        for make in KINDS:
            yield make(draws)


def noise(draws: random.Random) -> Made:
    return "in/t/sample", draws.randbytes(draws.randrange(65, 2000))  # 64: a raw picture


def cut_picture(draws: random.Random) -> Made:
    whole = io.BytesIO()
    shape = draws.randrange(9, 64), draws.randrange(9, 64)
    Image.frombytes("L", shape, draws.randbytes(shape[0] * shape[1])).save(whole, "png")
    return "in/t/sample", whole.getvalue()[: draws.randrange(8, 60)]


def wrong_shape(draws: random.Random) -> Made:
    return "in/t/sample", npy(np.zeros((draws.randrange(2, 9), 3, 5), np.uint8))


def objects(draws: random.Random) -> Made:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (%d,), }" % draws.randrange(9999)
    body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    return "in/t/sample", body + draws.randbytes(64)


def deep(draws: random.Random) -> Made:
    return "in/t/sample", b"[" * draws.randrange(100, 20_000)


def not_numbers(draws: random.Random) -> Made:
    return "in/t/sample", json.dumps([None, "x" * draws.randrange(2000), {"a": []}]).encode()


def wrong_schema(draws: random.Random) -> Made:
    return "in/t/sample", json.dumps(
        {"schema": f"edgecc.sample/{draws.randrange(2, 10**6)}", "data": "%%%"}).encode()


def wrong_source(draws: random.Random) -> Made:
    return f"in/T{draws.randrange(10**6)}!/sample", b"x"


def wrong_label_in_topic(draws: random.Random) -> Made:
    return f"in/t/sample/%ff{draws.randrange(10**6)}", b"x"


def wrong_label(draws: random.Random) -> Made:
    values = (None, 7, "x" * 5000, {"id": 3}, {"id": "i" * 999, "label": "a"}, {"id": "i"})
    return "in/t/label", json.dumps([draws.random(), draws.choice(values)]).encode()


def wrong_command(draws: random.Random) -> Made:
    return f"command/v{draws.randrange(10**6)}", draws.randbytes(50)


def wrong_request(draws: random.Random) -> Made:
    return "checkpoint/get", json.dumps(
        {"client": "../..", "transfer": 1, "generation": -draws.randrange(99), "chunks": "all"}
    ).encode()


KINDS: tuple[Callable[[random.Random], Made], ...] = (
    noise, cut_picture, wrong_shape, objects, deep, not_numbers, wrong_schema, wrong_source,
    wrong_label_in_topic, wrong_label, wrong_command, wrong_request,
)
