"""A grown trunk as it serves: beside the blocks that were trained, in any LiteRT, int8 or not."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]
from numpy.typing import NDArray
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

from edgecc.bench.device.trunks import InTorch
from edgecc.bench.learning.simulated_node import Device
from edgecc.learn.geometry import pool_window
from edgecc.learn.methods.base import Method
from edgecc.learn.network import Network
from edgecc.plan.plan import BlockSize, Plan
from edgecc.protocol.sample import Input
from edgecc.store.growth_log import Growth
from edgecc.training.dataset import Maps, Rows
from edgecc.training.growth import Grower
from edgecc.training.recipe import Recipe
from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.trunk import Trunk

Floats = NDArray[np.float32]
PICTURES = load_digits().images[:900, None].astype(np.uint8) * 15
TARGETS = load_digits().target[:900]
WINDOWS = PICTURES.reshape(-1, 1, 1, 64).astype(np.float32)
IMAGE, SENSOR = Input("image", (1, 8, 8)), Input("sensor", (1, 64))
BLOCKS = (BlockSize(16, 3, 2, 2), BlockSize(24, 3, 1, 2), BlockSize(32, 0, 1, 1))
PLANS = {
    "image": Plan(8, 3, BLOCKS, 32, 64, {}),
    "sensor": Plan(8, 3, BLOCKS[:2], 32, 64, {}),
}


def taught(samples: NDArray[np.generic], spec: Input) -> Device:
    made = Device(spec, PLANS[spec.kind], Recipe(epochs=3), first=10**9)
    for x, target in zip(samples, TARGETS, strict=True):
        made.learn(x, int(target))
    return made


@dataclass(frozen=True)
class Grown:
    trunk: Trunk
    network: Network
    rows: Rows
    samples: list[NDArray[np.generic]]  # stored ones that were not trained on

    def run(self, trunk: Trunk) -> Floats:
        run = Interpreter(trunk.compile()).run
        return np.stack([run(trunk.scale(x)) for x in self.samples])


@pytest.fixture(scope="module", params=["image", "sensor"])
def grown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    spec, samples = (IMAGE, PICTURES) if request.param == "image" else (SENSOR, WINDOWS)
    device, made = taught(samples, spec), list[Network]()
    rows = device.kept.rows(device.predictor.readout)

    def network(methods: list[Method]) -> Network:
        made.append(Network(methods))
        return made[0]

    grower = Grower(
        Growth(1, device.labels, asdict(device.recipe)), device.predictor.generation, rows,
        plan=device.plan, folder=tmp_path_factory.mktemp("growth"), report=lambda _: None,
        network=network)
    trunk = grower.grown()
    held = [rows.read(int(position)) for position in rows.validation]
    return Grown(trunk, made[0], rows, held)


def block_features(grown: Grown) -> Floats:
    """By the trained blocks themselves, batch norms and all, on the stem's map in float32."""
    for number, method in enumerate(grown.network.methods):
        below = Maps(grown.trunk.first(number), grown.rows)  # as it was frozen on
        method.calibrate([torch.from_numpy(u) for u in below.batches(grown.rows.training)])
    plain = replace(grown.trunk, ranges=None)
    maps = torch.from_numpy(Maps(plain.first(0), grown.rows).of(iter(grown.samples)))
    parts = []
    for a, layer in zip(grown.network.outputs(maps), plain.layers[1:], strict=True):
        down, across = (pool_window(*sides) for sides in zip(a.shape[2:], layer.grid, strict=True))
        pooled = F.avg_pool2d(a, (down[0], across[0]), (down[1], across[1]))
        parts.append(pooled.permute(0, 2, 3, 1).flatten(1))
    return torch.cat(parts, 1).numpy()


def test_a_compiled_trunk_says_what_its_trained_blocks_say_of_real_samples(grown: Grown) -> None:
    wanted, stem = block_features(grown), grown.trunk.layers[0].dim
    assert len(wanted) > 20
    assert wanted.std() > 0.1
    float32 = grown.run(replace(grown.trunk, ranges=None))[:, stem:]
    np.testing.assert_allclose(float32, wanted, rtol=0, atol=1e-4 * wanted.max())
    int8 = grown.run(grown.trunk)[:, stem:]
    cosine = (int8 * wanted).sum(1) / np.linalg.norm(int8, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosine.min() > 0.99
    assert np.abs(int8 - wanted).max() > 1e-3 * wanted.max(), "this is not int8"


def test_what_the_bench_compares_with_is_the_same_trunk(grown: Grown) -> None:
    plain = replace(grown.trunk, ranges=None)
    entering = np.stack([plain.scale(x).transpose(2, 0, 1) for x in grown.samples])
    with torch.inference_mode():
        theirs = InTorch(plain)(torch.from_numpy(entering)).numpy()
    np.testing.assert_allclose(theirs, grown.run(plain), rtol=0, atol=1e-4 * theirs.max())


def convolutions(model: bytes) -> Iterator[tuple[object, object]]:
    """Weights and output of each convolution, as the schema has them."""
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    [main] = parsed.subgraphs
    for operator in main.operators:
        if parsed.operatorCodes[operator.opcodeIndex].builtinCode == schema.BuiltinOperator.CONV_2D:
            yield main.tensors[operator.inputs[1]], main.tensors[operator.outputs[0]]


def test_int8_weights_have_a_scale_for_each_channel(grown: Grown) -> None:
    layers = list(convolutions(grown.trunk.compile()))
    assert len(layers) == len(grown.trunk.layers)
    for (weights, output), layer in zip(layers, grown.trunk.layers, strict=True):
        assert weights.type == output.type == schema.TensorType.INT8  # type: ignore[attr-defined]
        scales = weights.quantization.scale  # type: ignore[attr-defined]
        peaks = np.abs(layer.convs[0]).reshape(len(scales), -1).max(1)
        np.testing.assert_allclose(scales, peaks / 127, rtol=1e-5)
        assert len(set(scales)) > 1


@pytest.mark.parametrize("kernels", ["AUTO", "BUILTIN_REF"])
@pytest.mark.parametrize("int8", [True, False])
def test_a_stock_interpreter_opens_the_file_and_says_the_same(
    kernels: str, int8: bool, grown: Grown, tmp_path: Path
) -> None:
    """Also with LiteRT's reference kernels, which share nothing with XNNPACK."""
    trunk = grown.trunk if int8 else replace(grown.trunk, ranges=None)
    (tmp_path / "trunk.tflite").write_bytes(trunk.compile())
    stock = litert.Interpreter(
        model_path=str(tmp_path / "trunk.tflite"),
        experimental_op_resolver_type=litert.OpResolverType[kernels])
    stock.allocate_tensors()
    [entry], [leave] = stock.get_input_details(), stock.get_output_details()
    assert leave["shape"].tolist() == [1, trunk.dim]
    ours = grown.run(trunk)
    for x, wanted in zip(grown.samples, ours, strict=True):
        stock.set_tensor(entry["index"], trunk.scale(x)[None])
        stock.invoke()
        difference = np.abs(stock.get_tensor(leave["index"])[0] - wanted).max()
        assert difference < (0.05 if int8 else 1e-4) * ours.max()


@pytest.mark.parametrize("spikes", [False, True])
def test_a_trunk_that_int8_would_make_answer_otherwise_stays_float32(spikes: bool) -> None:
    """Windows that are now and then ten thousand times as high leave int8 no steps for others."""
    windows = WINDOWS.copy()
    if spikes:
        windows[::40] *= 10_000
    device = taught(windows, SENSOR)
    device.grow()
    assert {verdict["int8"] for verdict in device.verdicts} == {not spikes}
    for verdict in device.verdicts:
        assert (verdict["int8_agreement"] < 0.95) == spikes
