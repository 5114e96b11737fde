"""Small messages that claim to be large: refused before memory or time is spent on them.

Each runs in a child that may take only so many bytes and seconds more; beyond, it dies.
"""

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest
from PIL import Image

from edgecc.protocol.image import BYTES_A_PIXEL, scans_of

CHILD = str(Path(__file__).parents[1] / "support/bounded.py")
MIB = 2**20
LARGEST = (2000, 1500)  # exactly input.max_pixels


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, colour: int = 2, depth: int = 8, rows: int | None = None,
        extra: bytes = b"") -> bytes:
    """Black, of `rows` rows (all of them); colour as in the PNG's header."""
    samples_each = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = bytes(1 + (width * samples_each * depth + 7) // 8)
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(row) for _ in range(height if rows is None else rows))
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(6)) if colour == 3 else b""
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + extra
            + chunk(b"IDAT", packed + packer.flush()) + chunk(b"IEND", b""))


def jpeg(width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), 100 if mode == "L" else None).save(file, "JPEG", **options)
    return file.getvalue()


def many_scans(count: int) -> bytes:
    """A progressive JPEG that repeats its smallest refinement `count` times."""
    data = jpeg(*LARGEST, "L", progressive=True)
    starts = [i for i in range(len(data)) if data[i : i + 2] == b"\xff\xda"]
    scans = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data) - 2], strict=True)]
    return data[:-2] + min(scans[1:], key=len) * count + b"\xff\xd9"


def claiming(payload: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame header says another size."""
    place = next(i for i in range(len(payload)) if payload[i : i + 2] in (b"\xff\xc0", b"\xff\xc2"))
    return payload[: place + 5] + struct.pack(">HH", height, width) + payload[place + 9 :]


class Bounded:
    """See bounded.py: the shape of what a message means, or the reason against it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(
        self, payload: bytes, *, mib: float, seconds: int = 5, content_type: str | None = None,
        topic: str = "in/a/sample",
    ) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"topic": topic, "content_type": content_type, "size": len(payload), "mib": mib,
                 "seconds": seconds}
        self.process.stdin.write(json.dumps(asked).encode() + b"\n" + payload)
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()


@pytest.fixture(scope="module")
def within() -> Iterator[Bounded]:
    bounded = Bounded()
    yield bounded
    bounded.process.communicate()


PLANNED = 3_000_000 * BYTES_A_PIXEL / MIB + 3  # and a little for what is beside the pixels


@pytest.mark.parametrize("payload", [
    png(*LARGEST), png(*LARGEST, colour=6), png(*LARGEST, colour=0, depth=16),
    png(*LARGEST, colour=6, depth=16), png(*LARGEST, colour=3), png(*LARGEST, colour=0, depth=1),
    png(65_535, 45), jpeg(*LARGEST, progressive=True, subsampling=0),
    jpeg(*LARGEST, "CMYK", progressive=True), jpeg(9000, 9000, "L"), jpeg(4032, 3024),
], ids=["rgb", "rgba", "16 bits", "rgba 16", "palette", "bits", "wide", "progressive", "cmyk",
        "baseline", "photograph"])
def test_the_largest_pictures_are_decoded_within_what_the_plan_has_for_them(
    within: Bounded, payload: bytes
) -> None:
    assert within(payload, mib=PLANNED) == "(3, 64, 64)"


@pytest.mark.parametrize(("payload", "reason"), [
    (png(2001, 1500, rows=1), "2001x1500 is over input.max_pixels 3000000"),
    (png(9_000, 9_000, rows=1), "9000x9000 is over input.max_pixels"),
    (png(2**31 - 1, 2**31 - 1, rows=0), "cannot be decoded"),
    (png(3_000_000, 1), "3000000x1 is over"),
    (png(1, 100_000), "1x100000 is over"),
    (jpeg(2001, 1500, progressive=True), "2001x1500 is over"),
    (claiming(jpeg(64, 64), 65_500, 65_500), "cannot be decoded"),
    (claiming(jpeg(64, 64, progressive=True), 13_000, 13_000), "13000x13000 is over"),
    (many_scans(10_000), "scans, over 64"),
    (png(64, 64, extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50 * MIB)))), "too large"),
    (png(64, 64, extra=64 * chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(MIB - 1)))), "too much"),
    (png(64, 64, extra=chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(50 * MIB)))), "too large"),
])
def test_a_picture_that_claims_too_much_is_refused_before_it_is_decoded(
    within: Bounded, payload: bytes, reason: str
) -> None:
    assert len(payload) < MIB
    assert reason in within(payload, mib=6, seconds=1).lower()


NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize(("kind", "options"), [
    ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}),
    ("JPEG", {"restart_marker_rows": 1}),
])
def test_a_truncated_picture_is_refused_with_a_reason(
    within: Bounded, kind: str, options: dict[str, Any], kept: float
) -> None:
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, kind, **options)
    whole = file.getvalue()
    assert within(whole, mib=2) == "(3, 64, 64)"
    outcome = within(whole[: int(kept * len(whole))], mib=2)
    assert outcome.startswith("refused: picture cannot be decoded: "), outcome


def test_scans_are_counted_as_a_decoder_does() -> None:
    assert scans_of(jpeg(64, 64)) == 1
    plain = scans_of(jpeg(64, 64, progressive=True))
    assert 1 < plain < 12
    thumbnail = jpeg(32, 32, progressive=True)
    outer = jpeg(64, 64)
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    assert scans_of(outer[:2] + segment + outer[2:]) == 1
    assert scans_of(many_scans(500)) > 500
    assert scans_of(b"\xff\xd8" + b"\xff" * 100) == 0


# --- npy, JSON, CBOR ---


def npy(shape: tuple[int, ...], body: int = 64) -> bytes:
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(body)


BIGNUM = b"\xc2\x5a" + struct.pack(">I", 400_000)
NUMBERS = np.random.default_rng(0).bytes(400_000)
COLLIDING = [cbor2.dumps(number * (2**61 - 1)) for number in range(60_000)]  # one hash in CPython
COUNT = struct.pack(">H", len(COLLIDING))


@pytest.mark.parametrize(("payload", "content_type", "reason"), [
    (npy((10**9, 10**9)), None, "not accepted"),
    (npy((1000, 3000)), None, "npy cannot be read"),
    (npy((2**62, 0)), None, "npy cannot be read"),
    (b"[" * MIB, None, "not JSON"),
    (b'{"a":' * 200_000, None, "not JSON"),
    (b"[" + b"[]," * 300_000 + b"[]]", None, "no real numbers"),
    (b"[" + b"{}," * 300_000 + b"{}]", None, "not an array of numbers"),
    (b"[" + b"1," * 500_000 + b"1]", None, "does not fit"),
    (b"[" + b"9" * MIB + b"]", None, "not JSON"),
    (b"\x81" * MIB, "application/cbor", "nesting depth"),
    (b"\xc6" * MIB, "application/cbor", "nesting depth"),
    (b"\xc6\x01", "application/cbor", "tags are not accepted"),
    (b"\x9b\x7f" + b"\xff" * 7, "application/cbor", "not CBOR"),
    (b"\x5b\x7f" + b"\xff" * 7, "application/cbor", "not CBOR"),
    (b"\xbb\x00\x00\x00\xff" + b"\xff" * 4, "application/cbor", "not CBOR"),
    (b"\xd8\x1e\x82" + BIGNUM + NUMBERS + BIGNUM + NUMBERS[::-1], "application/cbor", "tags"),
    (b"\xb9" + COUNT + b"\0".join(COLLIDING), "application/cbor", "map key must be a text"),
    (b"\xd9\x01\x02\x99" + COUNT + b"".join(COLLIDING), "application/cbor", "tags"),
    (b"\xd8\x1c\x81\xd8\x1d\x00", "application/cbor", "tags"),
    (b"\xd8\x23" + cbor2.dumps("(a{1,1000}){1,1000}" * 20_000), "application/cbor", "tags"),
])
def test_numbers_that_claim_or_nest_too_much_are_refused_soon(
    within: Bounded, payload: bytes, content_type: str | None, reason: str
) -> None:
    outcome = within(payload, mib=64, seconds=2, content_type=content_type)
    assert outcome.startswith("refused")
    assert reason in outcome


@pytest.mark.parametrize("topic", ["in/a/label", "command/ping", "checkpoint/get"])
def test_an_order_that_nests_too_deep_is_refused(within: Bounded, topic: str) -> None:
    payload = b'{"id":"x","args":' + b"[" * MIB
    assert "not JSON" in within(payload, mib=32, seconds=2, topic=topic)

