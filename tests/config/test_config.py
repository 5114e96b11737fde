"""The configuration: where values come from, and the errors for wrong ones."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecc.config import units
from edgecc.config.loading import load
from edgecc.config.schema import Config, show
from edgecc.errors import ConfigError


def _load(tmp_path: Path, text: str, **environ: str) -> Config:
    path = tmp_path / "edgecc.yaml"
    path.write_text(text)
    return load(path, environ=environ)


def test_an_override_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    text = "mqtt: {port: 2}"
    path = tmp_path / "edgecc.yaml"
    path.write_text(text)
    environ = {"EDGECC_MQTT__PORT": "3"}
    assert load(None, environ={}).mqtt.port == 1883
    assert load(path, environ={}).mqtt.port == 2
    assert load(path, environ=environ).mqtt.port == 3
    assert load(path, environ=environ, overrides={"mqtt.port": 4}).mqtt.port == 4


def test_environment_alone_is_enough() -> None:
    config = load(None, environ={
        "EDGECC_NODE": "cam1", "EDGECC_INPUT__SHAPE": "[1, 28, 28]",
        "EDGECC_MEMORY_BUDGET": "300MiB",
    })
    assert (config.node, config.input.shape) == ("cam1", (1, 28, 28))
    assert config.memory_budget == 300 * 2**20


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mqtt:\n  hots: pi", "edgecc.yaml:2: unknown key 'mqtt.hots'; did you mean 'mqtt.host'?"),
        ("memory_budget: lots", "memory_budget: 'lots' is not a size"),
        ("seed: -1", "seed: -1 is not an integer"),
        ("mqtt: {port: true}", "mqtt.port: True is not an integer"),
        ("mqtt: {tls: 1}", "mqtt.tls: 1 is not a bool"),
        ("input: {kind: video}", "'video' is not one of image, sensor"),
        ("input: {shape: [2, 28, 28]}", "images have 1 or 3 channels"),
        ("input: {shape: [28, 28]}", "must have 3 sizes above 0"),
        ("node: Küche", "node 'Küche' must be 1 to 64 of"),
        ("grow: {epochs: 0}", "grow.epochs 0.0 is not from"),
        ("disk_budget: 1MiB", "is under 16MiB"),
        ("- a list", "expected `key: value` lines"),
        ("a: [", "is not YAML"),
        ("mqtt: {password: !secret pw}", "secrets.yaml"),
        ("mqtt: {password: '${PW:?set PW}'}", "PW is not set: set PW"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_do(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r".") as caught:
        _load(tmp_path, text)
    assert says in str(caught.value)


def test_secrets_come_from_their_file_or_the_environment_and_are_never_shown(
    tmp_path: Path,
) -> None:
    (tmp_path / "secrets.yaml").write_text("pw: s3cret")
    one = _load(tmp_path, "mqtt: {password: !secret pw}")
    two = _load(tmp_path, "mqtt: {password: '${PW:?}'}", PW="s3cret")
    assert one.mqtt.password == two.mqtt.password == "s3cret"
    assert "s3cret" not in str(show(one))


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="edgecc init"):
        load(tmp_path / "none.yaml", environ={})


@given(st.integers(0, 2**45))
def test_a_plain_number_of_bytes_is_itself(size: int) -> None:
    assert units.parse_size(size) == size


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 2**29), ("1.5 GiB", 3 * 2**29), ("7B", 7), ("8KiB", 8192)]
)
def test_sizes_take_units(text: str, size: int) -> None:
    assert units.parse_size(text) == size
    assert units.parse_size(units.format_size(size)) == size


@pytest.mark.parametrize("text", ["512MB", "-1", "", "MiB", "1e3"])
def test_a_size_that_could_be_misread_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        units.parse_size(text)
