"""Checkpoints that lie although their digests fit, some signed by the right key; pickles; keys."""

import ast
import base64
import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint.test_generation import KEY, OTHER, SPEC, TRUSTED, Made, learnt, save, stem
from nacl.signing import VerifyKey
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

import edgecc
from edgecc.checkpoint import signing
from edgecc.checkpoint.generation import load
from edgecc.checkpoint.keyring import open_or_make
from edgecc.checkpoint.manifest import FILES, Manifest, parse
from edgecc.checkpoint.signing import parse_key, sign
from edgecc.config.state import State
from edgecc.errors import CheckpointError, Corrupt, Incompatible, Untrusted

Tensors = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def small(digits: Any) -> Made:
    return learnt(stem, digits)


@pytest.fixture
def folder(tmp_path: Path, small: Made) -> Path:
    return save(tmp_path, small)


@pytest.fixture
def weighted(tmp_path: Path, small: Made) -> Path:
    """A checkpoint whose sums are not whole, and so not packed."""
    readout = small[1].copy()
    readout.learn(np.ones(readout.dim), "3", weight=0.3)
    return save(tmp_path, (small[0], readout))


def manifest_in(folder: Path) -> Manifest:
    return parse(signing.payload_of((folder / "manifest.json").read_bytes()))


def resign(folder: Path, described: Manifest | None = None) -> None:
    """`described`, or a manifest that fits the files as they are now, by the right key."""
    described = described or manifest_in(folder).with_files(folder)
    (folder / "manifest.json").write_bytes(sign(described.to_json(), KEY))


def change(folder: Path, name: str, edit: Callable[[Tensors], object]) -> None:
    loaded = load_tensors((folder / name).read_bytes())
    tensors = {key: value.copy() for key, value in loaded.items()}
    edit(tensors)
    (folder / name).write_bytes(save_tensors(tensors))
    resign(folder)


@pytest.mark.parametrize("made", ["folder", "weighted"])
def test_what_the_right_key_signs_anew_loads(made: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(made)
    change(folder, "readout.safetensors", lambda tensors: None)
    load(folder, TRUSTED, SPEC)


def test_sums_that_are_not_whole_are_stored_as_they_are(weighted: Path, small: Made) -> None:
    readout = small[1].copy()
    readout.learn(np.ones(readout.dim), "3", weight=0.3)
    loaded = load(weighted, TRUSTED, SPEC).readout
    assert (loaded.A.tobytes(), loaded.B.tobytes()) == tuple(x.tobytes() for x in readout.sums())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "tensor"), [
    ("readout.safetensors", "A"), ("readout.safetensors", "B"), ("blocks.safetensors", "0.bias"),
    ("blocks.safetensors", "0.conv.0"), ("blocks.safetensors", "input.std"),
])
def test_what_is_not_finite_is_corrupt_whoever_signed_it(
    weighted: Path, name: str, tensor: str, value: float
) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors[tensor].flat[-1] = value

    change(weighted, name, spoil)
    with pytest.raises(Corrupt):
        load(weighted, TRUSTED, SPEC)


@pytest.mark.parametrize(("name", "tensor", "dtype"), [
    ("blocks.safetensors", "0.bias", np.float64), ("blocks.safetensors", "0.conv.0", np.int8),
    ("readout.safetensors", "A", np.float32), ("readout.safetensors", "B", np.int64),
])
def test_a_tensor_of_another_type_is_corrupt(
    weighted: Path, name: str, tensor: str, dtype: Any
) -> None:
    change(weighted, name, lambda t: t.update({tensor: t[tensor].astype(dtype)}))
    with pytest.raises(Corrupt, match="float"):
        load(weighted, TRUSTED, SPEC)


def test_more_features_than_wanted_are_incompatible(folder: Path, small: Made) -> None:
    load(folder, TRUSTED, SPEC, most=small[0].dim)
    with pytest.raises(Incompatible, match="memory_budget"):
        load(folder, TRUSTED, SPEC, most=small[0].dim - 1)


@pytest.mark.parametrize(("name", "edit"), [
    ("blocks.safetensors", lambda t: t.update({"input.mean": np.zeros(3, np.float32)})),
    ("blocks.safetensors", lambda t: t.pop("0.conv.0")),
    ("blocks.safetensors", lambda t: t.pop("input.mean")),
    ("blocks.safetensors", lambda t: t.update({"0.conv.0": t["0.conv.0"][:, :, :3]})),
    ("blocks.safetensors", lambda t: t.update({"0.bias": np.append(t["0.bias"], t["0.bias"])})),
    ("readout.safetensors", lambda t: t.pop("A")),
    ("readout.safetensors", lambda t: t.update(A=t["A"][:-1])),
    ("readout.safetensors", lambda t: t.update(B=t["B"][:-1])),
    ("readout.safetensors", lambda t: t.update(B=t["B"][:, :-1])),
    ("readout.safetensors", lambda t: t.update(B=t["B"][0])),
    ("readout.safetensors", lambda t: t.update(A=t["A"][:3], B=t["B"][:, :2])),
], ids=range(11))
def test_tensors_that_do_not_fit_the_manifest_are_corrupt(
    weighted: Path, name: str, edit: Callable[[Tensors], object]
) -> None:
    change(weighted, name, edit)
    with pytest.raises(Corrupt):
        load(weighted, TRUSTED, SPEC)


@pytest.mark.parametrize("edit", [
    lambda t: t.pop("steps"), lambda t: t.update(columns=t["columns"][::-1].copy()),
    lambda t: t.update(columns=t["columns"][:-1]), lambda t: t.update(columns=t["columns"] * 0),
    lambda t: t.update(columns=np.append(t["columns"], t["columns"])),
    lambda t: t.update(steps=t["steps"] + 10**6), lambda t: t.update(steps=t["steps"] * 1.0),
], ids=range(7))
def test_packed_sums_that_cannot_be_are_corrupt(
    folder: Path, edit: Callable[[Tensors], object]
) -> None:
    change(folder, "readout.safetensors", edit)
    with pytest.raises(Corrupt):
        load(folder, TRUSTED, SPEC)


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**40, 2**63])
@pytest.mark.parametrize("name", ["blocks.safetensors", "readout.safetensors"])
def test_a_tensor_header_that_lies_about_its_length_is_corrupt(
    folder: Path, name: str, size: int
) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(struct.pack("<Q", size) + data[8:])
    resign(folder)
    with pytest.raises(Corrupt):
        load(folder, TRUSTED, SPEC)


@pytest.mark.parametrize("lie", [
    {"size": 1}, {"size": 2**40}, {"size": -1}, {"size": "1"}, {"size": None}, {"sha256": "0" * 64},
    {"sha256": None}, {"chunks": ()}, {"chunks": ("0" * 64,)}, {"chunks": ("0" * 64,) * 9},
    {"chunks": (None,)}, {"chunks": ([],)}, {"size": -1, "chunks": ()},
], ids=str)
def test_a_manifest_that_lies_about_a_file_is_corrupt(folder: Path, lie: dict[str, Any]) -> None:
    described = manifest_in(folder)
    for name in FILES:
        files = {**described.files, name: replace(described.files[name], **lie)}
        resign(folder, replace(described, files=files))
        with pytest.raises(Corrupt):
            load(folder, TRUSTED, SPEC)


JUNK = [None, "x", -1.5, True, [], [[]], {}, {"a": 1}, [{}], float("nan"), 2**70]


@pytest.mark.parametrize("junk", JUNK, ids=str)
@pytest.mark.parametrize(
    "field",
    ["node_input", "blocks", "classes", "alpha", "temperature", "files", "schema", "others"])
def test_a_field_of_another_kind_is_refused_by_name(folder: Path, field: str, junk: Any) -> None:
    described = manifest_in(folder)
    if field != "files":
        described = replace(described, **{field: junk})
    lying = json.loads(described.to_json()) | {field: junk}
    (folder / "manifest.json").write_bytes(sign(json.dumps(lying).encode(), KEY))
    numbers = field in ("alpha", "temperature") and junk in (-1.5, True, 2**70)
    if numbers or (field == "others" and junk == []):
        load(folder, TRUSTED, SPEC)
        return
    with pytest.raises((Corrupt, Incompatible)):
        load(folder, TRUSTED, SPEC)


def test_a_changed_field_under_the_old_digest_is_corrupt(folder: Path) -> None:
    payload = json.loads(signing.payload_of((folder / "manifest.json").read_bytes()))
    for field, value in (("cursor", 61), ("classes", ["x"]), ("parent", "y"), ("alpha", 1.0)):
        envelope = sign(json.dumps(payload | {field: value}).encode(), KEY)
        (folder / "manifest.json").write_bytes(envelope)
        with pytest.raises(Corrupt, match="says digest"):
            load(folder, TRUSTED)


# --- envelopes ---


@pytest.mark.parametrize("signatures", [
    [], {}, "x", None, 5, ["x"], [None], [5], [[]], [{}], {"keyid": "x"}, [{"keyid": None}],
    [{"keyid": signing.key_id(KEY.verify_key)}],
    [{"keyid": signing.key_id(KEY.verify_key), "sig": None}],
    [{"keyid": signing.key_id(KEY.verify_key), "sig": "é"}],
    [{"keyid": signing.key_id(KEY.verify_key), "sig": "AAAA"}],
    [{"keyid": signing.key_id(KEY.verify_key), "sig": base64.b64encode(b"\0" * 64).decode()}],
], ids=str)
def test_an_envelope_without_a_good_signature_is_never_opened(
    folder: Path, signatures: Any
) -> None:
    envelope = json.loads((folder / "manifest.json").read_bytes()) | {"signatures": signatures}
    (folder / "manifest.json").write_bytes(json.dumps(envelope).encode())
    with pytest.raises((Corrupt, Untrusted)):
        load(folder, TRUSTED)


@pytest.mark.parametrize("data", [
    b"", b"[]", b"5", b"\xff", b"{}", b"[" * 100_000, b'{"payloadType":"application/json"}',
    b'{"payloadType":"application/vnd.edgecc.manifest+json","payload":5,"signatures":[]}',
    b'{"payloadType":"application/vnd.edgecc.manifest+json","payload":"\\u00e9","signatures":[]}',
], ids=range(9))
def test_what_is_no_envelope_is_corrupt(folder: Path, data: bytes) -> None:
    (folder / "manifest.json").write_bytes(data)
    with pytest.raises(Corrupt):
        load(folder, TRUSTED)


def test_a_signature_by_another_key_under_a_trusted_name_is_untrusted(folder: Path) -> None:
    payload = signing.payload_of((folder / "manifest.json").read_bytes())
    envelope = json.loads(sign(payload, OTHER))
    envelope["signatures"][0]["keyid"] = signing.key_id(KEY.verify_key)
    (folder / "manifest.json").write_bytes(json.dumps(envelope).encode())
    with pytest.raises(Untrusted):
        load(folder, TRUSTED)


def test_during_a_rotation_either_of_two_signatures_is_enough(folder: Path) -> None:
    payload = signing.payload_of((folder / "manifest.json").read_bytes())
    both = json.loads(sign(payload, OTHER))
    both["signatures"] += json.loads(sign(payload, KEY))["signatures"]
    (folder / "manifest.json").write_bytes(json.dumps(both).encode())
    for key in (KEY, OTHER):
        load(folder, [key.verify_key], SPEC)


# --- pickle ---


class Trap:
    """Unpickles to a call, which would be noticed."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was read",))


@pytest.mark.parametrize("name", ["blocks.safetensors", "readout.safetensors", "manifest.json"])
def test_a_pickle_is_never_read(folder: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps(Trap()))
    if name != "manifest.json":
        resign(folder)
    with pytest.raises(Corrupt):
        load(folder, TRUSTED, SPEC)


def test_no_module_can_read_or_write_one() -> None:
    """Only the pretrained weights' file of one fixed digest is read by torch, tensors alone."""
    for path in Path(edgecc.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {str(getattr(node, "module", ""))}
                assert not names & {"pickle", "shelve", "marshal", "joblib", "dill"}, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                pretrained = path.name == "convert_efficientnet.py"
                assert pretrained or (node.value.id, node.attr) != ("torch", "load"), path
                assert (node.value.id, node.attr) != ("torch", "save"), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in map(ast.unparse, node.keywords), path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", path


# --- keys ---


def test_a_key_is_made_once_and_is_its_owner_s_alone(tmp_path: Path) -> None:
    state = State(tmp_path)
    made = open_or_make(state).signing
    assert state.key.stat().st_mode & 0o777 == 0o600
    assert open_or_make(state).signing == made
    assert list(tmp_path.iterdir()) == [state.key]
    state.key.write_bytes(b"short")
    with pytest.raises(CheckpointError, match="32-byte"):
        open_or_make(state)


def test_a_public_key_is_read_from_hex_or_untrusted() -> None:
    assert parse_key(f" {KEY.verify_key.encode().hex()}\n") == VerifyKey(KEY.verify_key.encode())
    for text in ("", "xyz", "00" * 31, "00" * 33, "é"):
        with pytest.raises(Untrusted):
            parse_key(text)
