"""Configurations that are broken, hostile or huge: a ConfigError soon, that repeats no secret."""

import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgecc.config import loading, units
from edgecc.config.schema import Config, SourceConfig, show
from edgecc.errors import ConfigError

HUSH = "Hush-0123"


def load(folder: Path, text: str, **environ: str) -> Config:
    path = folder / "edgecc.yaml"
    path.write_text(text)
    return loading.load(path, environ=environ)


def bomb(levels: int = 12) -> str:
    """Mappings and lists that refer to each other: ten times as much at every level."""
    lines = ["a0: &a0 {x: 1}", "b0: &b0 [1]"]
    for n in range(1, levels):
        lines += [f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(10))}}}",
                  f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 10)}]"]
    return "\n".join([*lines, f"seed: *b{levels - 1}", f"mqtt: *a{levels - 1}"])


@pytest.mark.parametrize(("text", "says"), [
    (bomb(), "edgecc.yaml:3 is not YAML: aliases (*) are not accepted"),
    ("a: &a [*a]", "aliases"),
    ("[" * 50_000, "nested too deep"),
    ("a: " + "{b: " * 5_000, "nested too deep"),
    ("? [a]\n: b", "expected `key: value` lines"),
    ("? {a: 1}\n: b", "expected `key: value` lines"),
    ("node: !!python/object/apply:os.system [id]", "edgecc.yaml:1"),
    ("node: !frob x", "could not determine a constructor"),
    ("seed: !frob x", "could not determine a constructor"),
    ("seed: !!int ''", "put it in quotes"),
    ("seed: 2001-99-99", "edgecc.yaml:1 is not YAML"),
    ("seed: 2001-01-01", "could not determine a constructor"),
    ("seed: " + "9" * 50_000, "put it in quotes"),
    ("seed: 0x" + "f" * 50_000, "is not an integer"),
    ("seed: [" + "1, " * 10_000 + "]", "is not an integer"),
    ("node: 'a\0b'", "is not YAML"),
    ("x: " + "y" * 70_000, "is over 64 KiB"),
    ("input: {shape: 5}", "input.shape"),
    ("input: {shape: [1, 2, {a: b}]}", "input.shape"),
    ("sources: {door: {rate: 10}}", "10' is not a rate: write 10/s"),
    ("sources: {door: {rate: 0/s}}", "is not a rate"),
    ("sources: {door: {labels: cat}}", "is not a list of labels"),
    ("sources: {door: {labels: [[cat]]}}", "is not a list of labels"),
    ("sources: {door: {label: [cat]}}", "did you mean 'sources.door.labels'?"),
    ("sources: {Door: {rate: 1/s}}", "unknown key 'sources.Door.rate'"),
    ("sources: {*: {rate: 1/s}}", "edgecc.yaml:1 is not YAML"),
    ("sources: 5", "unknown key 'sources'"),
    ("mqtt: {host: 'mqtt://u:pw@pi:1883'}", "mqtt.host is not the name"),
])
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, says: str) -> None:
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert says in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert time.process_time() - started < 5  # traced, PyYAML is slow
    assert peak < 64 * 2**20


def test_what_sources_may_send_is_read_as_it_is_written(tmp_path: Path) -> None:
    text = 'sources: {door: {labels: [no, 007, cat], rate: 10/s}, "*": {rate: 600/min}, x: {}}'
    sources = load(tmp_path, text).sources
    assert sources == {"door": SourceConfig(("no", "007", "cat"), units.Rate(10, "s")),
                     "*": SourceConfig(None, units.Rate(600, "min"))}
    same = loading.load(None, environ={
        "EDGECC_SOURCES": '{door: {labels: [no, 007, cat]}, "*": {rate: 600/min}}',
        "EDGECC_SOURCES__DOOR__RATE": "10/s"})
    assert same.sources == sources
    shown = show(same)["sources"]
    assert shown["door"] == {"labels": ["no", "007", "cat"], "rate": "10/s"}
    assert shown["*"] == {"labels": None, "rate": "600/min"}


@pytest.mark.parametrize("word", [
    "0123", "yes", "1e3", "12345678", "null-ish", "a: b", " x", "{a", "[b]", "*c"])
def test_a_password_is_taken_as_it_is_written(tmp_path: Path, word: str) -> None:
    (tmp_path / "secrets.yaml").write_text(f"pw: {word!r}\nplain: 0123\n")
    assert load(tmp_path, "mqtt: {password: !secret pw}").mqtt.password == word
    assert load(tmp_path, "mqtt: {password: !secret plain}").mqtt.password == "0123"
    assert load(tmp_path, "mqtt: {password: '${PW:?}'}", PW=word).mqtt.password == word
    assert load(tmp_path, "", EDGECC_MQTT__PASSWORD=word).mqtt.password == word


# --- errors about a broken file repeat no secret ---


@pytest.mark.parametrize("text", [
    f"mqtt: {{password: {HUSH}", f"mqtt:\n  password: &{HUSH} x\nnode: &{HUSH} y\n  z: q",
    f"mqtt:\n  password: !{HUSH} x", f"mqtt:\n  password: *{HUSH}",
    f"mqtt:\n  password: @{HUSH}", f"mqtt:\n  password: '{HUSH}",
    f'mqtt:\n  password: "\\q{HUSH}"', f"mqtt:\n  password: {HUSH}: b", f"{HUSH}",
    f"mqtt:\n  password: {HUSH}\n  passwort: {HUSH}", f"mqtt:\n  port: 1\n password: {HUSH}",
    f"mqtt:\n  password: !!int {HUSH}", f"mqtt: {{host: 'u:{HUSH}@pi'}}",
])
def test_no_error_repeats_a_secret(tmp_path: Path, text: str) -> None:
    (tmp_path / "secrets.yaml").write_text(text)
    shown = []
    for attempt in (
        lambda: load(tmp_path, text),
        lambda: load(tmp_path, "mqtt: {password: !secret pw}"),
        lambda: load(tmp_path, "", EDGECC_MQTT=text),
        lambda: load(tmp_path, "", EDGECC_MQTT__PASSWORD=text),
    ):
        try:
            config = attempt()
        except ConfigError as error:
            shown += [str(error), str(error.__cause__)]
        else:
            shown += [repr(config), str(show(config))]
    assert HUSH not in "\n".join(shown)


# --- any text ---

words = st.sampled_from([
    "mqtt", "port", "node", "seed", "sources", "door", "rate", "labels", "input", "shape", "a",
    "!secret pw", "!!int", "!!timestamp", "!!binary", "!!set", "!!merge", "<<", "${A:?b}", "1:99",
    "0x_", "0b", ".inf", "~", "2001-99-99", "[1, 28, 28]", "10/s", "'", '"', "|", ">", "&a", "*a",
    "? ", "- ", ": ", ", ", "{", "}", "[", "]", "\n", "\n  ", "#", "%YAML 9.9", "---", "...", "\t",
    "\x85", "\u2028", "\0"])
texts = st.one_of(st.lists(words, max_size=25).map("".join), st.text(max_size=80))


@given(texts, texts)
@example("mqtt: ", "")
@example("seed: !!timestamp x", "")
@example("{<<: [1]}", "pw: !!set {a}")
@settings(max_examples=300)
def test_any_text_gives_a_configuration_or_a_config_error(
    tmp_path_factory: Any, text: str, secret: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "secrets.yaml").write_bytes(secret.encode("utf-8", "surrogatepass"))
    (folder / "any.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    started = time.process_time()
    for path, environ in ((folder / "any.yaml", {}), (None, {"EDGECC_MQTT": text}),
                          (None, {"EDGECC_SEED": text}), (None, {"EDGECC_SOURCES": text})):
        try:
            config = loading.load(path, environ=environ)
        except ConfigError:
            continue
        assert show(config)
    assert time.process_time() - started < 2  # seconds
