"""A checkpoint folder: what is written comes back bit for bit, and what is damaged never loads."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nacl.signing import SigningKey

from edgecc.checkpoint import generation, signing
from edgecc.checkpoint.generation import Generation, adopt, load, numbers, prune, write
from edgecc.checkpoint.manifest import FILES, Manifest, parse
from edgecc.errors import CheckpointError, Corrupt, Incompatible, Untrusted
from edgecc.learn.readout import Readout, to_integers
from edgecc.plan.plan import Plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input
from edgecc.trunk.compile import Layer
from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.trunk import Trunk

SPEC = Input("image", (1, 8, 8))
KEY, OTHER = SigningKey(b"k" * 32), SigningKey(b"o" * 32)
TRUSTED = [KEY.verify_key]
Made = tuple[Trunk, Readout]


def stem() -> Trunk:
    return stem_trunk(Plan(4, 3, (), 16, 64, {}), SPEC, seed=0)


def int8_with_a_block() -> Trunk:
    first = stem()
    weight = np.random.default_rng(1).normal(0, 0.2, (4, len(first.layers[0].bias), 3, 3))
    layer = Layer((weight.astype(np.float32),), np.full(4, 0.1, np.float32), (2, 2), (3, 3))
    return replace(
        first, layers=(*first.layers, layer), methods=("stem", "contextual"),
        ranges=((0.0, 1.0), (0.0, 2.5), (0.0, 1.75)),
    )


@pytest.fixture(scope="module", params=[stem, int8_with_a_block], ids=lambda f: f.__name__)
def made(request: pytest.FixtureRequest, digits: Any) -> Made:
    """A trunk and a readout that learnt 60 digits."""
    return learnt(request.param, digits)


@pytest.fixture(scope="module")
def small(digits: Any) -> Made:
    return learnt(stem, digits)


def learnt(make: Callable[[], Trunk], digits: Any) -> Made:
    trunk = make()
    run, readout = Interpreter(trunk.compile()).run, Readout(trunk.dim)
    for image, target in zip(digits[0][:60], digits[1][:60], strict=True):
        readout.learn(to_integers(run(trunk.scale(image))), str(target))
    return trunk, readout


def manifest(**rest: Any) -> Manifest:
    values = {"cursor": 60, "recipe": {"seed": 0}, "metrics": {"held_out": 0.9}} | rest
    return generation.base_manifest("n", SPEC, **values)


def save(root: Path, made: Made, key: SigningKey = KEY, **rest: Any) -> Path:
    """An adopted generation's folder."""
    (root / "generations").mkdir(exist_ok=True)
    write(root / "part", manifest=manifest(**rest), trunk=made[0], readout=made[1])
    known = adopt(root / "part", root / "generations", key)
    return root / "generations" / generation.name_of(known.number)


def bits(value: Any) -> Any:
    return (value.dtype.str, value.shape, value.tobytes()) if hasattr(value, "dtype") else value


def contents(loaded: Generation) -> Any:
    trunk, readout = loaded.trunk, loaded.readout.copy()
    layers = [([bits(c) for c in layer.convs], bits(layer.bias), layer.pool, layer.grid)
              for layer in trunk.layers]
    return (trunk.shape, bits(trunk.mean), bits(trunk.std), layers, trunk.ranges, trunk.methods,
            loaded.model, bits(readout.A), bits(readout.B), readout.classes)


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path, made: Made, digits: Any) -> None:
    trunk, readout = made
    loaded = load(save(tmp_path, made), TRUSTED, SPEC)
    wanted = Generation(loaded.manifest, trunk, trunk.compile(), readout)
    assert contents(loaded) == contents(wanted)
    assert loaded.manifest.classes == readout.classes
    x = trunk.scale(digits[0][70])
    assert bits(Interpreter(loaded.model).run(x)) == bits(Interpreter(trunk.compile()).run(x))
    assert bits(loaded.readout.weights(1e-3)) == bits(readout.weights(1e-3))


def test_a_readout_that_knows_nothing_yet_is_saved_too(tmp_path: Path) -> None:
    trunk = stem()
    loaded = load(save(tmp_path, (trunk, Readout(trunk.dim))), TRUSTED, SPEC)
    assert loaded.readout.classes == []
    assert loaded.readout.copy().A.shape == (trunk.dim + 1, trunk.dim + 1)


def test_the_digest_is_of_content_and_not_of_time_number_or_metrics(
    tmp_path: Path, small: Made
) -> None:
    def digest(made: Made = small, **rest: Any) -> str:
        return write(tmp_path / "part", manifest=manifest(**rest), trunk=made[0],
                     readout=made[1]).digest

    same = digest()
    assert digest(created=1.0, number=7, metrics={"held_out": 0.1}) == same
    relearnt = small[1].copy()
    relearnt.learn(np.zeros(relearnt.dim), "3")
    tilted = replace(small[0], std=small[0].std * 2)
    others = [
        digest(cursor=61), digest(recipe={"seed": 1}), digest(plan={"batch": 1}),
        digest(parent=same), digest(alpha=1e-2), digest(temperature=3.0), digest(growth=1),
        digest((small[0], relearnt)), digest((tilted, small[1])),
    ]
    assert len({same, *others}) == 10


def test_adopting_the_same_content_twice_gives_one_generation(tmp_path: Path, small: Made) -> None:
    first = save(tmp_path, small)
    kept = (first / "manifest.json").read_bytes()
    assert save(tmp_path, small, created=5.0, metrics={}) == first
    assert not (tmp_path / "part").exists()
    assert numbers(tmp_path / "generations") == [0]
    assert (first / "manifest.json").read_bytes() == kept


def test_generations_are_a_chain_by_their_parents_digests(tmp_path: Path, small: Made) -> None:
    parent = ""
    for number in range(3):
        loaded = load(save(tmp_path, small, parent=parent), TRUSTED).manifest
        assert (loaded.number, loaded.parent) == (number, parent)
        parent = loaded.digest


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_neighbour_does_not_stop_the_next_generation(
    tmp_path: Path, small: Made, damage: bytes
) -> None:
    old = save(tmp_path, small)
    (old / "manifest.json").write_bytes(damage)
    with pytest.raises(CheckpointError):
        load(old, TRUSTED)
    new = save(tmp_path, small)
    assert new.name == "000001"
    load(new, TRUSTED, SPEC)


def test_pruning_keeps_the_newest_and_the_one_that_serves(tmp_path: Path, small: Made) -> None:
    for cursor in range(6):
        save(tmp_path, small, cursor=cursor)
    folder = tmp_path / "generations"
    assert prune(folder, 2, needed={1}) == [0, 2, 3]
    assert numbers(folder) == [1, 4, 5]
    assert prune(folder, 2, needed={1}) == []
    load(folder / "000001", TRUSTED, SPEC)
    assert save(tmp_path, small, cursor=99).name == "000006"


# --- damage ---


def places(size: int) -> list[int]:
    """The first and last 32 bytes, and about 200 in between."""
    middle = random.Random(size).sample(range(size), min(size, 200))
    return sorted({*range(min(size, 32)), *range(max(0, size - 32), size), *middle})


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_any_flipped_bit_is_refused(tmp_path: Path, small: Made, name: str) -> None:
    path = save(tmp_path, small) / name
    sound = path.read_bytes()
    flips = range(8) if name == "manifest.json" else (random.Random(0).randrange(8),)
    for place in places(len(sound)):
        for bit in flips:
            path.write_bytes(
                sound[:place] + bytes([sound[place] ^ 1 << bit]) + sound[place + 1 :])
            with pytest.raises((Corrupt, Untrusted, Incompatible)):
                load(path.parent, TRUSTED, SPEC)
    path.write_bytes(sound)
    load(path.parent, TRUSTED, SPEC)


def test_p15_every_byte_of_every_file_flipped_in_turn_is_detected(
    tmp_path: Path, small: Made
) -> None:
    """All of the manifest, and where the other files begin, by loading the checkpoint; every byte
    of these files by the check that loading begins with, of which `load` is shown to hold."""
    folder = save(tmp_path, small)
    loaded = parse(signing.payload_of((folder / "manifest.json").read_bytes()))
    for name in (*FILES, "manifest.json"):
        path = folder / name
        sound = path.read_bytes()
        with path.open("r+b", buffering=0) as file:
            for place, byte in enumerate(sound):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << place % 8]), place)
                if name == "manifest.json" or place < 64:
                    with pytest.raises((Corrupt, Untrusted)):
                        load(folder, TRUSTED, SPEC)
                else:
                    with pytest.raises(Corrupt, match="SHA-256"):
                        generation._checked_file(path, loaded.files[name])
                os.pwrite(file.fileno(), bytes([byte]), place)
        assert path.read_bytes() == sound
    load(folder, TRUSTED, SPEC)


def test_no_bit_of_the_signature_is_left_unlooked_at(tmp_path: Path, small: Made) -> None:
    """Base64 has bits that decode to nothing."""
    path = save(tmp_path, small) / "manifest.json"
    sound = path.read_bytes()
    start = sound.index(b'"sig": "') + 8
    for place in range(start, sound.index(b'"', start)):
        for bit in range(8):
            path.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << bit]) + sound[place + 1 :])
            with pytest.raises((Corrupt, Untrusted)):
                load(path.parent, TRUSTED)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [
    lambda data: data[:-1], lambda data: data + b"\0", lambda data: b"", lambda data: None,
], ids=["shorter", "longer", "empty", "missing"])
def test_a_file_of_another_length_is_corrupt(
    tmp_path: Path, small: Made, name: str, damage: Callable[[bytes], bytes | None]
) -> None:
    path = save(tmp_path, small) / name
    data = damage(path.read_bytes())
    path.unlink() if data is None else path.write_bytes(data)
    with pytest.raises(Corrupt, match=name):
        load(path.parent, TRUSTED, SPEC)


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load(tmp_path, TRUSTED)


@pytest.mark.parametrize("spec", [
    Input("image", (3, 8, 8)), Input("image", (1, 8, 9)), Input("sensor", (1, 64)),
], ids=str)
def test_a_checkpoint_for_another_input_is_incompatible(
    tmp_path: Path, small: Made, spec: Input
) -> None:
    with pytest.raises(Incompatible, match="this node takes"):
        load(save(tmp_path, small), TRUSTED, spec)


def test_only_a_trusted_key_s_signature_counts(tmp_path: Path, small: Made) -> None:
    folder = save(tmp_path, small, key=OTHER)
    with pytest.raises(Untrusted, match=signing.key_id(OTHER.verify_key)):
        load(folder, TRUSTED)
    with pytest.raises(Untrusted):
        load(folder, [])
    load(folder, [KEY.verify_key, OTHER.verify_key], SPEC)
