"""The stem is a function of shape and seed; what it mixes and keeps is what its layer says."""

import numpy as np
import pytest

from edgecc.plan.plan import Plan, readout_dim
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input
from edgecc.trunk.compile import Layer, compile_trunk, low_frequencies
from edgecc.trunk.interpreter import Interpreter
from edgecc.trunk.patch_stem import make_stem

SPECS = [Input("image", (1, 28, 28)), Input("image", (3, 9, 40)), Input("image", (1, 8, 8)),
         Input("sensor", (3, 64)), Input("sensor", (1, 1))]
PLANS = [Plan(4, 3, (), 16, 64, {}), Plan(6, 4, (), 16, 64, {}, stem_mixed=5),
         Plan(6, 4, (), 16, 64, {}, stem_mixed=5, stem_waves=7)]


def parts(layer: Layer) -> tuple[bytes, bytes]:
    mix = b"" if layer.mix is None else layer.mix.tobytes()
    return layer.convs[0].tobytes(), mix


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}{list(spec.shape)}")
@pytest.mark.parametrize("plan", PLANS, ids=["plain", "mixed", "waves"])
def test_a_stem_is_the_same_for_the_same_shape_and_seed_and_as_wide_as_planned(
    spec: Input, plan: Plan
) -> None:
    one, again, other = (stem_trunk(plan, spec, seed) for seed in (1, 1, 2))
    assert parts(one.layers[0]) == parts(again.layers[0]) != parts(other.layers[0])
    assert one.compile() == again.compile()
    channels, height, width = spec.model_shape
    features = Interpreter(one.compile()).run(np.ones((height, width, channels), np.float32))
    assert features.shape == (one.dim,) == (readout_dim(plan, spec),)


def test_mixed_features_are_the_plain_ones_times_two_matrices() -> None:
    shape = (1, 12, 20)
    plain = make_stem(shape, filters=4, grid=3, seed=0, pooled=False)
    mixed = make_stem(shape, filters=4, grid=3, seed=0, pooled=False, mixed=5, waves=6)
    x = np.random.default_rng(0).random((12, 20, 1), np.float32)
    cells, features = (Interpreter(compile_trunk([layer], input_shape=shape)).run(x)
                    for layer in (plain, mixed))
    assert mixed.mix is not None
    wanted = mixed.mix @ cells.reshape(9, 8).T @ low_frequencies((3, 3), 6).T
    np.testing.assert_allclose(features.reshape(5, 6), wanted, atol=1e-5)


def test_the_lowest_frequencies_are_as_large_of_a_fine_grid_as_of_a_coarse_one() -> None:
    """So that rounding is as coarse for all: what cells that are all alike come to."""
    sizes = []
    for grid in (7, 14):
        layer = make_stem((1, 28, 28), filters=6, grid=grid, seed=0, pooled=False, mixed=3, waves=9)
        assert layer.mix is not None
        lowest = low_frequencies(layer.grid, layer.waves)[0].sum()
        sizes.append(np.linalg.norm(layer.mix, axis=1) * lowest)
    np.testing.assert_allclose(*sizes, rtol=1e-5)


def test_all_frequencies_together_are_a_rotation_of_the_cells() -> None:
    for grid in ((1, 7), (4, 4), (3, 5)):
        rows = low_frequencies(grid, grid[0] * grid[1])
        np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-6)
        np.testing.assert_allclose(rows[0], rows[0][0])
