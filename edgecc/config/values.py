"""What the operator wrote: YAML files, secrets and environment variables, as dotted keys.

Each value comes with its place, for errors. Errors never repeat the text, which may be a secret.
Aliases are refused: a few lines of them can expand to more than any memory holds.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml

from edgecc.errors import ConfigError

Values = dict[str, tuple[Any, str]]  # dotted key: value, place
# How to read a dotted key: as text (`0123` and `no` too), as a list of texts, or as YAML does.
KindOf = Callable[[str], Literal["text", "texts", "value"]]

_LARGEST = 64 * 1024  # bytes of a file or a variable
_VARIABLE = re.compile(r"\$\{(\w+)(?::\?([^}]*))?\}")
_SECRET = "!secret"
_WRONG = (yaml.YAMLError, ValueError, LookupError, RecursionError)  # what PyYAML raises
_DEEPEST = 20  # levels
_STANDARD = "tag:yaml.org,2002:"
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases (*) are not accepted: put the value in quotes, or write it again",
                problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        self.depth += 1
        if self.depth > _DEEPEST:
            raise RecursionError
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_constructors = {None: yaml.SafeLoader.yaml_constructors[None]} | {
    _STANDARD + name: yaml.SafeLoader.yaml_constructors[_STANDARD + name] for name in _PLAIN
}


def from_file(path: Path, environ: Mapping[str, str], kind_of: KindOf) -> Values:
    """Every key in the file, with `!secret name` and `${VAR:?message}` replaced by their values."""

    def value(node: yaml.Node, key: str, place: str) -> Any:
        if node.tag == _SECRET:
            return _secret(path, str(node.value), place)
        return _substituted(_plain(node, kind_of(key) != "value"), environ, place)

    text = _text(path, "edgecc init writes it")
    return _parsed(str(path), lambda: dict(_flat(_root(text), "", path, value)))


def from_environment(environ: Mapping[str, str], kind_of: KindOf) -> Values:
    """EDGECC_MQTT__PORT is mqtt.port, parsed as YAML."""
    given: Values = {}
    for name, text in environ.items():
        if name.startswith("EDGECC_"):
            key = name.removeprefix("EDGECC_").lower().replace("__", ".")
            given |= _parsed(name, partial(_variable, text, key, name, kind_of))
    return given


def _variable(text: str, key: str, name: str, kind_of: KindOf) -> Values:
    if kind_of(key) == "text":
        return {key: (text or None, name)}

    def value(node: yaml.Node, key: str, _place: str) -> Any:
        return _plain(node, kind_of(key) != "value")

    node = _root(text)
    if isinstance(node, yaml.MappingNode):
        return dict(_flat(node, f"{key}.", Path(name), value))
    return {key: (None if node is None else value(node, key, name), name)}


def _text(path: Path, otherwise: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; {otherwise}") from error
    if len(data) > _LARGEST:
        raise ConfigError(f"{path} is over {_LARGEST // 1024} KiB: not a configuration")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8, at byte {error.start}") from None


def _root(text: str) -> yaml.Node | None:
    if len(text) > _LARGEST:
        raise ValueError
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _parsed(place: str, parse: Callable[[], Values]) -> Values:
    """What `parse` returns; its errors without the text: no cause, no snippet."""
    try:
        return parse()
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        why = re.sub(r"(['\"]).*\1", "...", error.problem or "", flags=re.DOTALL)
        raise ConfigError(f"{place}{line} is not YAML: {why}") from None
    except RecursionError:
        raise ConfigError(f"{place} is not usable: it is nested too deep") from None
    except _WRONG:
        raise ConfigError(f"{place} is not YAML: a value cannot be read, put it in quotes"
                          ) from None


def _flat(
    mapping: yaml.Node | None, prefix: str, path: Path, value: Callable[[yaml.Node, str, str], Any]
) -> Iterator[tuple[str, tuple[Any, str]]]:
    if mapping is None:
        return
    if not isinstance(mapping, yaml.MappingNode):
        raise ConfigError(f"{path}: expected `key: value` lines")
    for name, node in mapping.value:
        place = f"{path}:{name.start_mark.line + 1}"
        if not isinstance(name, yaml.ScalarNode):
            raise ConfigError(f"{place}: expected `key: value` lines")
        key = f"{prefix}{name.value}"
        if isinstance(node, yaml.MappingNode):
            yield from _flat(node, key + ".", path, value)
        else:
            yield key, (value(node, key, place), place)


def _plain(node: yaml.Node, as_text: bool) -> Any:
    """The value; with as_text, scalars and lists of them stay as written."""
    if as_text and isinstance(node, yaml.SequenceNode):
        return [_plain(item, True) for item in node.value]
    standard = node.tag.startswith(_STANDARD) and node.tag != _STANDARD + "null"
    if as_text and isinstance(node, yaml.ScalarNode) and standard:
        return node.value
    loader = _Loader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _secret(path: Path, name: str, place: str) -> Any:
    file = path.parent / "secrets.yaml"
    text = _text(file, f"{place} needs it")
    known = _parsed(str(file), lambda: dict(
        _flat(_root(text), "", file, lambda node, *_: _plain(node, True))))
    if name not in known:
        raise ConfigError(f"{place}: {file} has no key {name!r}")
    return known[name][0]


def _substituted(value: Any, environ: Mapping[str, str], place: str) -> Any:
    def replace(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise ConfigError(f"{place}: {match[1]} is not set: {match[2] or 'export it'}")
        return environ[match[1]]

    return _VARIABLE.sub(replace, value) if isinstance(value, str) else value
