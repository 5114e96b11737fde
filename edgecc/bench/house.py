"""The structure of the sources in figures: rooms, layers, circles, lengths and words.

Reads a checkout and imports nothing of it; layers are those of the contract in its pyproject.toml.
Raises ConfigError where there is no checkout, as beside an installed package.
"""

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click

from edgecc.bench import figures
from edgecc.errors import ConfigError

_BY_SUB_ROOM = {"learn", "bench"}
_PHRASES = {"is_no": "is" + " no ", "a" + "new": "a" + "new"}  # halved: this file counts too
_VAGUE = "found"

Edges = Mapping[str, Set[str]]  # module to the modules that it imports


@dataclass(frozen=True)
class Module:
    path: Path  # in the package
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        parts = ("edgecc", *self.path.with_suffix("").parts)
        return ".".join(parts[:-1] if self.is_package else parts)

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


def run(*, root: Path | None, json_path: Path | None) -> None:
    measured = measure(root or Path(__file__).parents[2])
    places = measured["places"]
    for name, value in measured.items():
        if name != "places":
            click.echo("\n    ".join([f"{name:18}{value}", *places.get(name, [])]))
    if json_path is not None:
        figures.write(json_path, "house", measured)


def measure(root: Path) -> dict[str, Any]:
    """Each figure by name, of the checkout in `root`; and the places that some of them count."""
    modules, layers = _modules(root), _layers(root)
    edges = imports(modules)
    places = {
        "back_edges": [f"{a} -> {b}" for a, b in back_edges(edges, layers)],
        "cycles": [" ".join(circle) for circle in circles(edges)],
        "daemon_takers": [one.name for one in modules if takes_daemon(one)],
    }
    room, files = _rooms(modules).most_common(1)[0]
    lengths = sorted(_function_lengths(modules))
    return {
        "root_files": sum(len(one.path.parts) == 1 for one in modules),
        "largest_room": files,
        "largest_room_name": room,
        "layers": len(layers),
        **{name: len(where) for name, where in places.items()},
        "lines": sum(one.text.count("\n") for one in modules if one.path.parts[0] != "bench"),
        "function_median": round(median(lengths)),
        "function_p90": round(quantiles(lengths, n=10, method="inclusive")[-1]),
        "function_longest": lengths[-1],
        "readme_bytes": (root / "README.md").stat().st_size,
        **{name: sum(one.text.count(phrase) for one in modules)
           for name, phrase in _PHRASES.items()},
        "found_bindings": sum(_bindings(one.tree) for one in modules),
        "places": places,
    }


def _modules(root: Path) -> list[Module]:
    package = root / "edgecc"
    if not (root / "pyproject.toml").exists() or not package.is_dir():
        raise ConfigError(f"{root} holds no pyproject.toml beside edgecc/: these figures are of "
                          "the sources, so give the folder of a checkout")
    texts = {path.relative_to(package): path.read_text() for path in package.rglob("*.py")}
    return [Module(path, text, ast.parse(text)) for path, text in sorted(texts.items())]


def _layers(root: Path) -> list[set[str]]:
    """From the top down, each layer's rooms, which may not import each other."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one["type"] == "layers")
    return [{room.strip() for room in layer.split("|")} for layer in layers]


def _rooms(modules: list[Module]) -> Counter[str]:
    """Files by room; a room's sub-rooms count with it, but for those _BY_SUB_ROOM."""
    folders = [one.path.parts[:-1] for one in modules]
    return Counter("/".join(parts if parts[0] in _BY_SUB_ROOM else parts[:1])
                   for parts in folders if parts)


def imports(modules: list[Module]) -> Edges:
    """Every import of a module by another, in functions and for type checking too."""
    names = {one.name for one in modules}
    return {one.name: {target for node in ast.walk(one.tree)
                       for target in _imported(node, one, names)} & names - {one.name}
            for one in modules}


def _imported(node: ast.AST, module: Module, names: Set[str]) -> Iterator[str]:
    """`from package import name` imports the module of that name, or else the package."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        package = module.name.split(".")[: None if module.is_package else -1]
        above = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*above, *filter(None, [node.module])])
        for alias in node.names:
            target = f"{base}.{alias.name}"
            yield target if target in names else base


def back_edges(edges: Edges, layers: list[set[str]]) -> list[tuple[str, str]]:
    """Imports upwards, or of another room in the same layer."""
    place = {room: (number, room) for number, rooms in enumerate(layers) for room in rooms}

    def room(module: str) -> tuple[int, str] | None:
        return place.get(".".join(module.split(".")[:2]))

    return [(module, target) for module, targets in edges.items() for target in sorted(targets)
            if (above := room(module)) and (below := room(target))
            and above != below and below[0] <= above[0]]


def circles(edges: Edges) -> list[list[str]]:
    """Sets of modules of which each reaches each other one."""
    reached = {module: _reachable(module, edges) for module in edges}
    circles = {frozenset(other for other in reached[module] if module in reached[other])
               for module in edges}
    return sorted(sorted(circle) for circle in circles if circle)


def _reachable(module: str, edges: Edges) -> set[str]:
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        fresh = edges[waiting.pop()] - reached
        reached |= fresh
        waiting += fresh
    return reached


def takes_daemon(module: Module) -> bool:
    """Whether an argument or an attribute here is a Daemon; not in the one that defines it."""
    if any(isinstance(node, ast.ClassDef) and node.name == "Daemon" for node in module.tree.body):
        return False
    return any(_holds_daemon(node) for node in ast.walk(module.tree))


def _holds_daemon(node: ast.AST) -> bool:
    annotation = node.annotation if isinstance(node, ast.arg | ast.AnnAssign) else None
    return annotation is not None and bool(re.search(r"\bDaemon\b", ast.unparse(annotation)))


def _function_lengths(modules: list[Module]) -> Iterator[int]:
    for one in modules:
        for node in ast.walk(one.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield (node.end_lineno or node.lineno) - node.lineno + 1


def _bindings(tree: ast.Module) -> int:
    """How often the vague name is assigned or an argument, loops and `with` included."""
    return sum(
        (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == _VAGUE)
        or (isinstance(node, ast.arg) and node.arg == _VAGUE)
        for node in ast.walk(tree))
