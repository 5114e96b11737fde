"""Samples as JSON lines, from a file or a pipe."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.captured import write_jsonl

from edgecc.capture import dataset, jsonl
from edgecc.capture.item import Item
from edgecc.capture.open import open_items
from edgecc.errors import ConfigError


def test_numbers_and_channels_stay_json_and_pictures_become_bytes(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(dataset.load_digits()[0][0]).save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    path = write_jsonl(
        tmp_path / "s.jsonl",
        {"data": [1, 2.5], "label": "a", "ts": 12, "unknown": True},
        {"data": {"x": [1, 2], "y": [3, 4]}, "id": "mine", "label": 7},
        {"data": picture, "content_type": "image/png"},
    )
    numbers, channels, image = list(open_items(path))
    assert numbers == Item("s.jsonl:1", b"[1,2.5]", "application/json", "a", 12.0)
    assert channels == Item("mine", b'{"x":[1,2],"y":[3,4]}', "application/json", "7")
    assert image == Item("s.jsonl:3", buffer.getvalue(), "image/png")


def test_json_lines_give_the_same_items_each_time_and_skip_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"data":[1]}\r\n\r\n{"data":[1]}')
    source = open_items(str(path))
    items = list(source)
    assert [item.id for item in items] == ["s.jsonl:1", "s.jsonl:3"]
    assert items == list(source) == list(open_items(str(path)))


def stream_stdin(lines: str) -> list[str]:
    code = "from edgecc.capture.open import open_items\nfor i in open_items('-'): print(i.id)"
    run = subprocess.run(
        [sys.executable, "-c", code], input=lines, capture_output=True, text=True, check=True
    )
    return run.stdout.splitlines()


def test_a_pipe_repeats_its_ids_only_for_the_lines_it_repeats() -> None:
    first = stream_stdin('{"data":[1]}\n{"data":[2]}\n{"data":[2],"id":"mine"}\n')
    assert first == stream_stdin('{"data":[1]}\n{"data":[2]}\n{"data":[2],"id":"mine"}\n')
    assert first[0].startswith("stdin:1:")
    assert first[2] == "mine"
    other = stream_stdin('{"data":[1]}\n{"data":[3]}\n')
    assert other[0] == first[0]
    assert other[1] != first[1]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"{", "Expecting"),
        (b"\xff", "decode"),
        (b"[1]", "not a JSON object"),
        (b"{}", "data must be an array"),
        (b'{"data":[]}', "data must be an array"),
        (b'{"data":{}}', "at least one channel"),
        (b'{"data":{"x":[1],"y":[1,2]}}', "same length"),
        (b'{"data":{"x":1}}', "data must be an array"),
        (b'{"data":[true]}', "'True', which is not a finite number"),
        (b'{"data":["1"]}', "not a finite number"),
        (b'{"data":[NaN]}', "NaN is not a finite number"),
        (b'{"data":[1e999]}', "'inf', which is not a finite number"),
        (b'{"data":[1' + b"0" * 400 + b"]}", "not a finite number"),
        (b'{"data":[1],"content_type":"image/png"}', "must be base64 text"),
        (b'{"data":"AAAA"}', "needs a content_type of image/jpeg"),
        (b'{"data":"AAAA","content_type":"text/html"}', "needs a content_type"),
        (b'{"data":"AAA","content_type":"image/png"}', "data is not base64"),
        (b'{"data":"AAAA*","content_type":"image/png"}', "data is not base64"),
        (b'{"data":"","content_type":"image/png"}', "data is empty"),
        (b'{"data":[1],"id":""}', "id must be text"),
        (b'{"data":[1],"label":true}', "label must be text"),
        (b'{"data":[1],"label":"\\ud800"}', "not valid Unicode"),
        (b'{"data":[1],"ts":"now"}', "ts must be a number of seconds"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_bad_line_is_named_by_its_number_and_reason(
    tmp_path: Path, line: bytes, what: str
) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(b'{"data":[1]}\n' + line + b"\n")
    items = iter(open_items(str(path)))
    next(items)
    with pytest.raises(ConfigError, match=rf"^s\.jsonl:2: .*{what}"):
        next(items)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
numbers = st.lists(st.integers() | st.floats(), max_size=4)
readings = json_values | numbers | st.dictionaries(st.text(max_size=3), numbers, max_size=3)
encoded = st.binary(max_size=20).map(lambda raw: base64.b64encode(raw).decode())
objects = st.fixed_dictionaries(
    {"data": readings | encoded},
    optional={
        "id": json_values | st.text(),
        "label": json_values | st.text(),
        "ts": json_values | st.floats(),
        "content_type": json_values | st.sampled_from([*jsonl.BINARY, "application/json"]),
    },
).map(lambda value: json.dumps(value).encode())


@given(st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode()) | objects)
def test_any_line_gives_an_item_or_a_config_error(line: bytes) -> None:
    try:
        items = list(jsonl.read_lines([line], name="any"))
    except ConfigError:
        return
    assert len(items) == bool(line.strip())
    for item in items:
        assert item.payload
        assert item.id
        assert item.content_type in (*jsonl.BINARY, "application/json")
        if item.content_type == "application/json":
            decoded = json.loads(item.payload)
            rows = list(decoded.values()) if isinstance(decoded, dict) else [decoded]
            assert np.isfinite(np.array(rows, dtype=np.float64)).all()
