"""Bytes from the broker: every accepted form, every way to be wrong, and any bytes at all."""

import base64
import hashlib
import io
import struct
import zlib
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from edgecc.errors import MessageError
from edgecc.protocol import sample as samples
from edgecc.protocol.decode import decode, id_of, source_of
from edgecc.protocol.messages import (
    Canary,
    ChunkRequest,
    Command,
    Inbound,
    Label,
    content_id,
    to_json,
)
from edgecc.protocol.sample import Input, Sample
from edgecc.protocol.topics import Topics, decode_label, encode_label

TOPICS = Topics("edgecc/v1", "n")
IMAGE, COLOUR = Input("image", (1, 8, 8)), Input("image", (3, 8, 16))
SENSOR = Input("sensor", (2, 4))
WINDOW = [[0.5, 1, -2, 3], [4, 5, 6, 7.25]]


def message(rest: str, payload: bytes, **about: Any) -> Inbound:
    return Inbound(TOPICS / rest, payload, **about)


def meant(rest: str, payload: bytes, spec: Input = IMAGE, **about: Any) -> Any:
    return decode(message(rest, payload, **about), rest.split("/"), spec)


def envelope(**fields: Any) -> dict[str, Any]:
    return {"schema": "edgecc.sample/1", "data": WINDOW, **fields}


def picture(pixels: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def bare_npy(header: str, data: bytes = b"\0" * 256) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(side: int) -> bytes:
    """A few bytes that promise side x side pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


# --- what is accepted ---


@pytest.mark.parametrize("content_type", ["image/png", None, ""])
def test_a_png_of_the_model_s_size_arrives_pixel_for_pixel(digits: Any, content_type: Any) -> None:
    for image in digits[0][:20]:
        decoded = samples.decode(picture(image[0]), content_type, IMAGE)
        assert decoded.dtype == np.uint8
        assert (decoded == image).all()


def test_a_jpeg_arrives_nearly_so_and_any_size_is_scaled(digits: Any) -> None:
    image = digits[0][0][0]
    large = np.kron(image, np.ones((40, 40), np.uint8))
    for content_type in ("image/jpeg", None):
        decoded = samples.decode(picture(large, "JPEG", quality=95), content_type, IMAGE)
        assert np.abs(decoded[0].astype(int) - image).max() <= 4


def test_colour_is_planes_in_the_order_red_green_blue() -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :, 0], pixels[2:, :, 1], pixels[:, 4:, 2] = 10, 20, 30
    assert (samples.decode(picture(pixels), None, COLOUR) == pixels.transpose(2, 0, 1)).all()


def test_sixteen_bits_a_pixel_are_scaled_not_clipped() -> None:
    pixels = (np.arange(64).reshape(8, 8) * 1000).astype(np.uint16)
    decoded = samples.decode(picture(pixels), None, IMAGE)
    assert np.abs(decoded[0] - pixels / 256).max() <= 1


PLANES = np.arange(3 * 8 * 16, dtype=np.uint8).reshape(3, 8, 16)


@pytest.mark.parametrize("array", [
    PLANES, PLANES.transpose(1, 2, 0), PLANES.ravel(), PLANES.astype(np.float64),
    np.asfortranarray(PLANES), PLANES.astype(">i4"),
], ids=lambda a: f"{a.dtype.str}{a.shape}")
def test_an_npy_is_taken_in_any_numeric_type_and_either_layout(array: Any) -> None:
    decoded = samples.decode(npy(array), "application/x-npy", COLOUR)
    assert (decoded == PLANES).all()
    assert (samples.decode(npy(array), None, COLOUR) == PLANES).all()


@pytest.mark.parametrize("value", [
    WINDOW, [*WINDOW[0], *WINDOW[1]], {"x": WINDOW[0], "y": WINDOW[1]}, [[row] for row in WINDOW],
], ids=str)
def test_a_window_is_taken_nested_flat_or_by_channel(value: Any) -> None:
    for content_type in ("application/json", None):
        decoded = samples.decode(to_json(value), content_type, SENSOR)
        assert decoded.dtype == np.float32
        assert decoded.tolist() == [[row] for row in WINDOW]
    raw = np.array(WINDOW, np.float32).tobytes()
    assert samples.decode(raw, "application/octet-stream", SENSOR).tolist() == decoded.tolist()
    assert samples.decode(npy(np.array(WINDOW)), None, SENSOR).tolist() == decoded.tolist()


def test_json_and_raw_pixels_are_a_picture(digits: Any) -> None:
    image = digits[0][3]
    for payload in (to_json(image.tolist()), to_json(image[0].tolist()), image.tobytes()):
        assert (samples.decode(payload, None, IMAGE) == image).all()


def test_a_sample_survives_packing(digits: Any) -> None:
    for spec, x in ((IMAGE, digits[0][0]), (SENSOR, np.float32(WINDOW).reshape(2, 1, 4))):
        unpacked = spec.unpack(Sample("a", "b", 0.0, None, x).pack())
        assert unpacked.dtype == x.dtype
        assert (unpacked == x).all()


def test_samples_stored_by_earlier_versions_are_read() -> None:
    """They were compressed with zlib."""
    x = np.arange(64, dtype=np.uint8).reshape(IMAGE.model_shape)
    for level in (1, 9):
        assert (IMAGE.unpack(zlib.compress(x.tobytes(), level)) == x).all()


@pytest.mark.parametrize("data", [
    WINDOW, base64.b64encode(np.float32(WINDOW).tobytes()).decode(),
    base64.b64encode(to_json(WINDOW)).decode(),
], ids=["numbers", "raw", "json"])
def test_a_json_envelope_carries_numbers_or_base64(data: Any) -> None:
    fields = {"id": "s1", "ts": 12.5, "label": "walk", "data": data, "extra": 1}
    sample = meant("in/imu/sample", to_json(envelope(**fields)), SENSOR)
    assert (sample.id, sample.source, sample.ts, sample.label) == ("s1", "imu", 12.5, "walk")
    assert sample.x.tolist() == [[row] for row in WINDOW]


def test_a_cbor_envelope_carries_bytes_or_numbers(digits: Any) -> None:
    body = envelope(id="s1", data=picture(digits[0][0][0]), content_type="image/png", label=None)
    about = {"content_type": "application/cbor"}
    sample = meant("in/cam/sample", cbor2.dumps(body), **about)
    assert (sample.x == digits[0][0]).all()
    assert (sample.id, sample.label) == ("s1", None)
    sample = meant("in/imu/sample", cbor2.dumps(envelope()), SENSOR, **about)
    assert sample.x.tolist() == [[row] for row in WINDOW]


def test_user_properties_name_a_bare_payload_and_the_topic_s_label_wins() -> None:
    user = {"id": "s1", "ts": "12.5", "label": "walk"}
    sample = meant("in/imu/sample", to_json(WINDOW), SENSOR, user=user)
    assert (sample.id, sample.ts, sample.label) == ("s1", 12.5, "walk")
    assert meant("in/imu/sample/run", to_json(WINDOW), SENSOR, user=user).label == "run"


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
@example("a/b+c#d%e")
@example("%2F")
def test_any_text_survives_as_a_label_in_the_topic(label: str) -> None:
    level = encode_label(label)
    assert not set(level) & set("/+#")
    assert decode_label(level) == label
    topic = TOPICS.sample("imu", label)
    taken = Inbound(topic, to_json(WINDOW))
    if len(label.encode()) <= 128:
        assert decode(taken, TOPICS.levels(taken.topic), SENSOR).label == label
    else:
        with pytest.raises(MessageError, match="over 128"):
            decode(taken, TOPICS.levels(taken.topic), SENSOR)


def test_labels_commands_chunks_and_the_canary_are_told_apart() -> None:
    assert meant("in/a/label", b'{"id":"s","label":null}') == Label("s", None, "a")
    assert meant("in/a/label", b'{"id":"s","label":"x"}') == Label("s", "x", "a")
    assert meant("in/a/label", b'{"id":"s","unlearn":true}') == Label("s", None, "a", unlearn=True)
    assert meant("in/canary", b"t1") == Canary("t1")
    command = meant("command/ping", b'{"id":"7","args":{"a":1}}', retain=True)
    assert command == Command("ping", "7", {"a": 1}, None, None, retain=True)
    body = {"client": "c", "transfer": "t", "generation": 3, "file": "f", "chunks": [0, 2]}
    assert meant("checkpoint/get", to_json(body)) == ChunkRequest(
        "c", "t", 3, "f", (0, 2), size=65536)


# --- the id ---


def test_without_an_id_it_is_the_documented_hash() -> None:
    payload = to_json(WINDOW)
    plain = hashlib.sha256(b"imu\0\0" + payload).hexdigest()
    labelled = hashlib.sha256("imu\0é\0".encode() + payload).hexdigest()
    assert content_id("imu", None, payload) == content_id("imu", "", payload) == plain
    assert meant("in/imu/sample", payload, SENSOR).id == plain
    assert meant("in/imu/sample/%C3%A9", payload, SENSOR).id == labelled
    assert meant("in/imu/sample", payload, SENSOR, user={"label": "é"}).id == labelled


@pytest.mark.parametrize("rest", ["in/imu/sample", "in/imu/sample/run"])
@pytest.mark.parametrize("user", [{}, {"id": "u"}, {"label": "walk"}], ids=str)
@pytest.mark.parametrize("body", [
    WINDOW, envelope(), envelope(id="e"), envelope(label="sit"), envelope(id="e", label="sit"),
], ids=["bare", "envelope", "with id", "with label", "with both"])
def test_a_receipt_names_a_refused_sample_as_it_would_the_stored_one(
    rest: str, user: dict[str, str], body: Any
) -> None:
    taken, levels = message(rest, to_json(body), user=user), rest.split("/")
    assert id_of(taken, levels) == decode(taken, levels, SENSOR).id
    assert source_of(levels) == "imu"
