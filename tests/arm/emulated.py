"""On an emulated aarch64 (`make arm`): dependencies, compiled trunks, daemon and learner.

Emulation shows what is computed, never how fast. Not collected by `make test`.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nacl.signing import SigningKey, VerifyKey
from support.datasets import Digits, fashion, npy
from support.growths import chain, closed
from support.live_node import MakeNode

from edgecc.checkpoint import generation
from edgecc.learn.readout import Readout, to_integers
from edgecc.plan import planner
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.messages import Label
from edgecc.protocol.sample import Input, Sample
from edgecc.serving.predictor import Predictor
from edgecc.store.growth_log import Growth
from edgecc.store.writer import Store
from edgecc.training.dataset import Rows
from edgecc.training.growth import Grower
from edgecc.trunk.trunk import Trunk

ROOT = Path(__file__).parent.parent.parent
ARM = ROOT / "build/arm"
PYTHON = str(ARM / "python")
CPUS = {"cortex-a53": "Zero 2 W, Pi 3", "cortex-a72": "Pi 4", "cortex-a76": "Pi 5"}
PICTURES = 200
SPEC = Input("image", (1, 8, 8))
SLOW = 1800.0  # seconds; torch alone takes 40 to import


def emulated(*arguments: str | Path, cpu: str = "cortex-a72") -> str:
    done = subprocess.run([PYTHON, *map(str, arguments)], capture_output=True, text=True,
                          env=os.environ | {"ARM_CPU": cpu}, timeout=SLOW)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- dependencies ---


def test_every_dependency_is_a_wheel_for_aarch64_within_the_constraints() -> None:
    """pip as Debian bookworm has it, run on the emulated machine, has chosen and unpacked them."""
    distributions = {one.name.lower().replace("_", "-"): one for one in
             importlib.metadata.distributions(path=[str(ARM / "site")])}
    wanted = [re.match(r"[\w-]+", line)[0].lower()  # type: ignore[index]
              for line in (ARM / "requirements.txt").read_text().splitlines()]
    assert set(wanted) <= set(distributions)
    for name, one in distributions.items():
        tags = re.findall(r"^Tag: (.*)$", one.read_text("WHEEL") or "", re.MULTILINE)
        assert tags, name
        assert all(tag.endswith(("aarch64", "-any")) for tag in tags), (name, tags)
    text = (ROOT / "deploy/constraints-aarch64.txt").read_text()
    pinned = {name.lower().replace("_", "-"): version for name, version in
              re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)}
    assert {name: pinned.get(name) for name in distributions} == {
        name: one.version.split("+")[0] for name, one in distributions.items()}
    print("\n" + ", ".join(f"{name} {one.version}" for name, one in sorted(distributions.items())))


def test_python_is_on_an_arm() -> None:
    assert emulated("-c", "import platform; print(platform.machine())").strip() == "aarch64"


# --- a compiled trunk ---


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trunk, np.ndarray]:
    """A trunk of a stem and three blocks, trained here; and pictures it has not seen."""
    images, labels = fashion()
    folder, spec = tmp_path_factory.mktemp("grown"), Input("image", (1, 28, 28))
    key = SigningKey.generate()
    plan = planner.plan(2**29, spec, max_payload=2**20, blocks=3)
    store = Store(folder / "log.sqlite")
    with store.transaction():
        for n in range(400):
            store.record(Sample(f"d-{n}", "t", 0.0, None, images[n][None]))
            store.add_label(Label(f"d-{n}", str(labels[n]), "t"))
    stem = stem_trunk(plan, spec, 0)
    (folder / "generations").mkdir()
    generation.write(folder / "stem", manifest=generation.base_manifest("node", spec), trunk=stem,
                     readout=Readout(stem.dim))
    generation.adopt(folder / "stem", folder / "generations", key)
    parent = generation.load(folder / "generations/000000", [key.verify_key], spec)
    (folder / "growth").mkdir()
    grower = Grower(Growth(1, 400, {"epochs": 2, "seed": 0}), parent, Rows.at(store, spec, 400),
                    plan=plan, folder=folder / "growth", report=lambda said: None)
    trunk = grower.grown()
    store.close()
    return trunk, images[-PICTURES:, None]


def both(trunk: Trunk, pictures: np.ndarray, folder: Path, cpu: str) -> list[np.ndarray]:
    """The trunk's features of pictures, by this machine and by the emulated one."""
    model, samples = folder / "trunk.tflite", folder / "samples.npy"
    model.write_bytes(trunk.compile())
    np.save(samples, np.stack([trunk.scale(picture) for picture in pictures]))
    script = ROOT / "tests/arm/features.py"
    subprocess.run([sys.executable, script, model, samples, folder / "here.npy"], check=True)
    emulated(script, model, samples, folder / "there.npy", cpu=cpu)
    return [np.load(folder / f"{where}.npy") for where in ("here", "there")]


@pytest.mark.parametrize("cpu", CPUS)
def test_what_is_learnt_of_an_int8_trunk_is_the_same_to_the_bit(
    grown: tuple[Trunk, np.ndarray], tmp_path: Path, cpu: str
) -> None:
    trunk, pictures = grown
    assert trunk.ranges is not None
    here, there = both(trunk, pictures, tmp_path, cpu)
    whole = to_integers(here), to_integers(there)
    print(f"\n{cpu} ({CPUS[cpu]}): of {here.size} features as whole numbers "
          f"{np.sum(whole[0] != whole[1])} differ; unrounded, by {np.abs(here - there).max():.1e}")
    assert len(np.unique(whole[0])) > 50
    assert np.array_equal(*whole)


@pytest.mark.parametrize("cpu", CPUS)
def test_a_float32_trunk_has_the_same_features_to_rounding(
    grown: tuple[Trunk, np.ndarray], tmp_path: Path, cpu: str
) -> None:
    trunk, pictures = grown
    here, there = both(replace(trunk, ranges=None), pictures[:20], tmp_path, cpu)
    largest = float(np.abs(here - there).max() / np.abs(here).max())
    print(f"\n{cpu} ({CPUS[cpu]}): largest difference {largest:.1e} of the largest feature")
    assert largest < 1e-5


# --- the daemon, and its learner ---


def test_a_node_on_an_arm_predicts_learns_grows_and_hands_over_what_it_knows(
    make_node: MakeNode, digits: Digits, tmp_path: Path
) -> None:
    """mosquitto and the client are this machine's; the daemon and the learner are emulated."""
    images, labels = digits
    node = make_node(grow={"first": 100, "epochs": 1, "idle_exit": 1})
    node.python = PYTHON
    node.start()
    info = node.peer.wait(lambda m: m.topic == node.topic("info")).json
    assert info["machine"] == "aarch64"
    node.stream(images[:100], labels[:100])
    node.receipt("d-99")
    right = sum(node.ask(images[n])["label"] == str(labels[n]) for n in range(200, 240))
    assert right >= 28, "of 40, after ten labels a class"
    before = node.ask(images[300])
    for n in range(3):
        node.send(npy(images[300]), id=f"mine-{n}", label="mine")
        node.receipt(f"mine-{n}")
    after = node.ask(images[300])
    assert before["label"] != after["label"] == "mine"
    node.peer.wait(lambda m: m.topic == node.topic("train") and m.json["phase"] == "training",
                   timeout=SLOW)
    if not closed(node, 1):
        node.peer.wait(lambda _: closed(node, 1), timeout=SLOW)
    for block in (1, 2, 3):
        node.peer.wait(lambda m: m.topic == node.topic("event") and m.json["type"] == "verdict"
                       and m.json["data"]["block"] == block)  # noqa: B023
    node.peer.publish(node.topic("command/checkpoint"), '{"id": "1"}')
    saved = node.peer.wait(lambda m: m.topic == node.topic("response/checkpoint")).json["data"]
    pulled = node.run("checkpoint", "pull", "--json", cwd=tmp_path)
    assert pulled.returncode == 0, pulled.stderr
    assert saved["digest"] in chain(node)
    loaded = generation.load(tmp_path / f"checkpoints/{generation.name_of(saved['generation'])}",
                             [VerifyKey(bytes.fromhex(info["public_key"]))], SPEC)
    here = Predictor(loaded)
    here.refresh()
    for n in range(200, 240):
        there = node.ask(images[n], generation=saved["generation"])
        mine = here.predict(here.features_of([images[n]]), 0.0)[0]
        assert mine.label == there["label"]
        assert mine.score == pytest.approx(there["score"], abs=1e-4)
    assert node.stop() == 0
