"""Whatever is not a sample, label, command or request is a MessageError, never another error."""

import copy
import io
import json
import tracemalloc
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from protocol.test_messages import (
    IMAGE,
    SENSOR,
    TOPICS,
    WINDOW,
    bare_npy,
    envelope,
    huge_png,
    meant,
    message,
    npy,
    picture,
)

from edgecc.errors import MessageError
from edgecc.protocol import sample as samples
from edgecc.protocol.decode import decode, id_of, source_of
from edgecc.protocol.messages import to_json
from edgecc.protocol.sample import Input, Sample

PIXELS = (np.arange(64, dtype=np.uint8) * 4).reshape(8, 8)


class Trap:
    """Pickles to a call, which would be noticed."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was read",))


@pytest.mark.parametrize(("payload", "content_type", "reason"), [
    (npy(np.array([Trap()] * 64, object)), "application/x-npy", "not accepted"),
    (npy(np.array([Trap()] * 64, object)), None, "not accepted"),
    (npy(np.zeros(64, [("a", "u1")])), None, "no real numbers"),
    (npy(np.zeros(64, complex)), None, "no real numbers"),
    (npy(np.full(64, "a")), None, "no real numbers"),
    (npy(np.zeros((8, 4, 2))), None, r"shape \(8, 4, 2\) does not fit"),
    (npy(np.zeros((9, 8))), None, r"shape \(9, 8\) does not fit"),
    (npy(np.full((8, 8), np.nan)), None, "NaN or infinity"),
    (npy(np.full((8, 8), 1e300)), None, "NaN or infinity"),
    (npy(np.full((8, 8), 256)), None, "not in 0..255"),
    (npy(np.full((8, 8), -1)), None, "not in 0..255"),
    (npy(PIXELS)[:-1], None, "npy cannot be read"),
    (npy(PIXELS)[:20], None, "npy cannot be read"),
    (npy(np.zeros(10**6, np.float64))[:200], None, "npy cannot be read"),
    (picture(PIXELS)[:-30], "image/png", "cannot be decoded"),
    (picture(PIXELS)[:20], None, "cannot be decoded"),
    (picture(PIXELS, "JPEG")[:-30], "image/jpeg", "cannot be decoded"),
    (picture(PIXELS, "GIF"), "image/png", "cannot be decoded"),
    (huge_png(50_000), None, "cannot be decoded"),
    (huge_png(9_000), None, "9000x9000 is over input.max_pixels"),
    (to_json(WINDOW), "application/json", r"does not fit"),
    (b'[["a"]]', None, "not an array of numbers"),
    (b"[true, false]", None, "not an array of numbers"),
    (b"[[1, 2], [3]]", None, "not an array of numbers"),
    (b"[NaN]", None, r"does not fit"),
    (b"[[]]", None, "no real numbers"),
    (b"[" * 100_000, None, "not JSON"),
    (b"{]", None, "not JSON"),
    (b"123", "application/octet-stream", "3 raw bytes do not fill"),
    (b"", None, "0 raw bytes"),
    (b"x" * 64, "image/gif", "'image/gif' is not one of"),
])
def test_a_bad_picture_says_what_is_wrong(
    payload: bytes, content_type: str | None, reason: str
) -> None:
    with pytest.raises(MessageError, match=reason):
        samples.decode(payload, content_type, IMAGE)


@pytest.mark.parametrize("header", [
    "{'descr': (", "'''", "(" * 5000, "-" * 9000 + "1", "1+", "{}", "[]",
    *(f"{{'descr': {kind}, 'fortran_order': False, 'shape': (8, 8)}}" for kind in (
        "'<f4,(2'", "'f4,,'", "()", "[]", "None", "{'a': 1}", "[('a',)]", "'V999999999999'")),
    *(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}" for shape in (
        "(8, 8, 10**9)", "(10000000000, 10000000000)", "(-1, -1)", "8", "(8, '8')")),
])
def test_an_npy_header_is_never_more_than_wrong(header: str) -> None:
    with pytest.raises(MessageError):
        samples.decode(bare_npy(header), None, IMAGE)


@pytest.mark.parametrize("payload", [
    b"[1, 2, 3, 4, 5, 6, 7, NaN]", b"[1, 2, 3, 4, 5, 6, 7, 1e999]", to_json([1e300] * 8),
    to_json([10**400] * 8), np.full(8, np.inf, np.float32).tobytes(), picture(PIXELS),
    to_json(np.reshape(WINDOW, (4, 2)).tolist()),
], ids=["nan", "inf", "large", "huge", "raw inf", "picture", "transposed"])
def test_a_bad_window_is_refused(payload: bytes) -> None:
    with pytest.raises(MessageError):
        samples.decode(payload, None, SENSOR)


def test_one_long_text_does_not_set_the_size_of_every_entry() -> None:
    payload = to_json(["a" * 100_000, *[""] * 1000])
    tracemalloc.start()
    with pytest.raises(MessageError, match="not an array of numbers"):
        samples.decode(payload, None, SENSOR)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


@pytest.mark.parametrize(("fields", "reason"), [
    ({"schema": "edgecc.sample/2"}, "'edgecc.sample/2' is not supported; use 'edgecc.sample/1'"),
    ({"schema": None}, "None is not supported"),
    ({"ts": "noon"}, "ts 'noon' is not seconds"),
    ({"ts": float("nan")}, "is not seconds"),
    ({"ts": -1}, "ts -1 is not seconds"),
    ({"ts": 1e12}, "is not seconds"),
    ({"ts": 10**400}, "is not seconds"),
    ({"ts": [1]}, "is not seconds"),
    ({"label": ""}, "label '' is not a non-empty string"),
    ({"label": 5}, "label 5 is not"),
    ({"label": "a\0b"}, "is not a non-empty string"),
    ({"label": "é" * 65}, "label of 130 bytes is over 128"),
    ({"label": "\ud800"}, "not JSON"),
    ({"id": "\ud800"}, "not JSON"),
    ({"id": ["x"]}, "is not a string of 1 to 256 bytes"),
    ({"id": "é" * 129}, "is not a string of 1 to 256 bytes"),
    ({"data": None}, "envelope has no data"),
    ({"data": "%%%%"}, "data is not base64"),
    ({"data": "é"}, "data is not base64"),
    ({"data": "AAAA", "content_type": ["x"]}, "content type"),
])
def test_a_bad_envelope_says_what_is_wrong(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        meant("in/imu/sample", json.dumps(envelope() | fields).encode(), SENSOR)


@pytest.mark.parametrize(("rest", "payload", "reason"), [
    ("in/a/sample/%ff", b"[]", "not UTF-8"),
    ("in/a/sample/", to_json(WINDOW), "not a non-empty string"),
    ("in/a/label", b"", "expected"),
    ("in/a/label", b'{"id":"s"}', "expected"),
    ("in/a/label", b'{"id":"","label":"x"}', "is not a string of 1 to 256"),
    ("in/a/label", b'{"label":"x"}', "is not a string of 1 to 256"),
    ("in/a/label", b'{"id":"s","label":""}', "not a non-empty string"),
    ("in/a/label", b'{"id":"\\ud800","label":"x"}', "not JSON"),
    ("in/a/label", b'{"id":"\xed\xa0\x80","label":"x"}', "not JSON"),
    ("in/a/label", b"[]", "not a JSON object"),
    ("command/ping", b'{"args":[]}', "args is not a JSON object"),
    ("command/ping", b'{"id":"\xed\xa0\x80"}', "not JSON"),
    ("checkpoint/get", b"{}", "not a number, or chunks not a list"),
    ("checkpoint/get", b'{"generation":"1","chunks":[]}', "not a number"),
    ("checkpoint/get", b'{"generation":1,"chunks":[-1]}', "not a number, or chunks"),
    ("checkpoint/get", b'{"generation":1,"chunks":[],"client":"../x","transfer":"t"}', "letters"),
    ("checkpoint/get", b'{"generation":1,"chunks":[],"size":[]}', "size of type list"),
    ("in/a/b/c/d", b"", "nothing listens"),
    ("in", b"", "nothing listens"),
    ("in/A b/sample", b"[]", "A b"),
    ("out/a/receipt", b"", "nothing listens"),
])
def test_a_bad_message_says_what_is_wrong(rest: str, payload: bytes, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        meant(rest, payload, SENSOR)


# --- any bytes ---



def check(taken: Any, spec: Input) -> None:
    """A decoded value or a MessageError; and always an id and a source for the receipt."""
    try:
        meaning = decode(taken, TOPICS.levels(taken.topic), spec)
    except MessageError:
        meaning = None
    if isinstance(meaning, Sample):
        assert meaning.x.shape == spec.model_shape
        assert meaning.x.dtype == spec.dtype
        assert np.isfinite(meaning.x).all()
        assert meaning.id == id_of(taken, TOPICS.levels(taken.topic))
    to_json([id_of(taken, TOPICS.levels(taken.topic)), source_of(TOPICS.levels(taken.topic))])


def seeds() -> list[bytes]:
    """One valid payload of each form, to be damaged."""
    still, other = Image.fromarray(PIXELS), Image.fromarray(PIXELS.T.copy())
    animated = io.BytesIO()
    still.save(animated, "PNG", save_all=True, append_images=[other])
    body = envelope(id="s", ts=1.5, label="x")
    return [
        picture(PIXELS), picture(np.stack([PIXELS] * 3, 2)), picture(PIXELS, "JPEG"),
        picture(PIXELS.astype(np.uint16)), animated.getvalue(), npy(PIXELS), npy(np.array(WINDOW)),
        to_json(WINDOW), to_json(body), cbor2.dumps(body), b'{"id":"s","label":"x"}',
        cbor2.dumps(copy.deepcopy(body) | {"ts": cbor2.CBORTag(4, [-1, 15]), "data": b"\0" * 32}),
        b'{"client":"c","transfer":"t","generation":1,"file":"f","chunks":[1]}',
    ]


SEEDS = seeds()
edits = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 8), st.binary(max_size=8)), max_size=5
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    payload = draw(st.sampled_from(SEEDS))
    for start, length, replacement in draw(edits):
        place = start % (len(payload) + 1)
        payload = payload[:place] + replacement + payload[place + length :]
    return payload


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8"))
    | st.just("\ud800") | st.just(10**400),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)
fields = st.dictionaries(
    st.sampled_from(["id", "ts", "label", "data", "content_type", "unlearn", "args", "chunks",
                     "generation", "client", "transfer", "file"]), values)
objects = st.one_of(
    values, fields, fields.map(lambda given: {"schema": "edgecc.sample/1"} | given),
).map(lambda value: json.dumps(value).encode())
payloads = st.one_of(damaged(), objects, st.binary(max_size=200))
content_types = st.sampled_from([
    None, "", "image/png", "image/jpeg", "application/x-npy", "application/json",
    "application/octet-stream", "application/cbor", "text/plain"])
specs = st.sampled_from([IMAGE, SENSOR, Input("image", (3, 8, 16))])
topics = st.sampled_from([
    "in/a/sample", "in/a/sample/%C3%A9", "in/a/sample/%ff", "in/a/sample/", "in/a/label",
    "in/canary", "command/ping", "checkpoint/get", "in/a/b/c/d", "in/A b/sample", "in", "x",
    ""])
properties = st.dictionaries(
    st.sampled_from(["id", "ts", "label"]), st.text(st.characters(codec="utf-8"), max_size=5))


@pytest.mark.filterwarnings("ignore")  # Pillow and numpy may warn of odd files; they must not raise
@given(topics, payloads, content_types, properties, specs)
@example("in/a/sample", cbor2.dumps({1: 2}), "application/cbor", {}, SENSOR)
@example("in/a/sample", b'\x81' * 5000, "application/cbor", {}, SENSOR)
@settings(max_examples=1500)
def test_any_bytes_give_a_meaning_or_a_message_error(
    rest: str, payload: bytes, content_type: str | None, user: dict[str, str], spec: Input
) -> None:
    check(message(rest, payload, content_type=content_type, user=user), spec)


@pytest.mark.filterwarnings("ignore")
@given(damaged(), content_types, specs)
@settings(max_examples=800)
def test_any_sample_bytes_give_an_array_or_a_message_error(
    payload: bytes, content_type: str | None, spec: Input
) -> None:
    try:
        array = samples.decode(payload, content_type, spec)
    except MessageError:
        return
    assert (array.shape, array.dtype) == (spec.model_shape, spec.dtype)
