"""A push that lies, or of which a bit was flipped: refused by name, and what serves goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from nacl.signing import SigningKey
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from support.datasets import Digits
from support.live_node import Node
from support.pushed import SPEC, THEIRS, event, made, poor, push, taught  # noqa: F401

from edgecc.checkpoint import generation, signing
from edgecc.checkpoint.manifest import FILES
from edgecc.learn.readout import Readout
from edgecc.plan.plan import Plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input
from edgecc.trunk.trunk import Trunk

STRANGER = SigningKey(b"s" * 32)


def wide() -> Trunk:
    return stem_trunk(Plan(200, 4, (), 16, 64, {}), SPEC, seed=0)


def other_input(root: Path) -> Path:
    spec = Input("image", (1, 9, 9))
    return made(root, stem_trunk(Plan(4, 3, (), 16, 64, {}), spec, seed=0), spec=spec)


def resigned(folder: Path, edit: Callable[[Path], object], key: SigningKey = THEIRS) -> Path:
    """After `edit` of its files, signed again by the key that the node trusts."""
    written = generation.unsigned(folder)
    assert written is not None
    edit(folder)
    described = written.with_files(folder)
    (folder / "manifest.json").write_bytes(signing.sign(described.to_json(), key))
    return folder


def tensors(name: str, edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        held = {k: v.copy() for k, v in load_tensors((folder / name).read_bytes()).items()}
        edit(held)
        (folder / name).write_bytes(save_tensors(held))

    return change


def nan(tensors: dict[str, Any]) -> None:
    tensors["0.bias"][-1] = np.nan


def another_model(folder: Path) -> None:
    (folder / "trunk.tflite").write_bytes(wide().compile())


def no_model(folder: Path) -> None:
    (folder / "trunk.tflite").write_bytes(b"not a model at all")


def longer_header(folder: Path) -> None:
    path = folder / "readout.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])


def fewer_rows(tensors: dict[str, Any]) -> None:
    tensors["0.conv.0"] = tensors["0.conv.0"][:, :, :2].copy()


def half_floats(tensors: dict[str, Any]) -> None:
    tensors["0.bias"] = tensors["0.bias"].astype(np.float16)


LIES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "unknown key": (lambda root: made(root, poor(), key=STRANGER), "no valid signature"),
    "NaN": (lambda root: resigned(made(root, poor()), tensors("blocks.safetensors", nan)), "NaN"),
    "dtype": (lambda root: resigned(
        made(root, poor()), tensors("blocks.safetensors", half_floats)), "float16"),
    "shapes": (lambda root: resigned(
        made(root, poor()), tensors("blocks.safetensors", fewer_rows)), "shapes"),
    "header": (lambda root: resigned(made(root, poor()), longer_header), "do not fit"),
    "another model": (lambda root: resigned(made(root, poor()), another_model), "features"),
    "no model": (lambda root: resigned(made(root, poor()), no_model), "does not run"),
    "another input": (other_input, "this node takes"),
    "more features than there is memory for": (lambda root: made(root, wide()), "memory_budget"),
    "a readout that cannot be solved": (lambda root: made(root, poor(), unsolvable()), "readout"),
}


def unsolvable() -> Readout:
    """Finite sums that no samples make."""
    readout = Readout(poor().dim, ["0", "1"])
    readout.A[:], readout.A[0, 0] = 1e308, 0
    return readout


def test_p15_a_push_that_lies_is_refused_with_76_by_name_and_what_serves_goes_on(
    taught: Node, tmp_path: Path, digits: Digits
) -> None:
    before, log = taught.ask(digits[0][1000]), taught.rows("SELECT MAX(seq) FROM label")
    for lie, (make, name) in LIES.items():
        root = tmp_path / lie.replace(" ", "-")
        root.mkdir()
        heard = len(taught.peer.messages)
        code, answer, output = push(taught, make(root))
        assert (code, answer) == (76, {}), (lie, output)
        assert name in output, (lie, output)
        if lie != "a readout that cannot be solved":  # noticed in the trial
            assert name in event(taught, "push-refused", heard)["data"]["reason"]
    after = taught.ask(digits[0][1000])
    assert (after["generation"], after["top"]) == (1, before["top"])
    assert generation.numbers(taught.state / "generations") == [0, 1]
    assert taught.rows("SELECT MAX(seq) FROM label") == log


def test_p15_a_flipped_bit_in_any_file_that_is_pushed_is_refused_with_76(
    taught: Node, tmp_path: Path, digits: Digits
) -> None:
    folder = made(tmp_path, poor())
    for name in (*FILES, "manifest.json"):
        whole = (folder / name).read_bytes()
        data = bytearray(whole)
        data[len(whole) // 2] ^= 4
        (folder / name).write_bytes(data)
        code, _, output = push(taught, folder)
        assert code == 76, (name, output)
        (folder / name).write_bytes(whole)
    assert taught.ask(digits[0][1000])["generation"] == 1
