"""The types of events that the sources raise, read from the calls that raise them."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import edgecc
from edgecc.training.supervisor import Ending

SEVERITIES = {"info", "warning", "error"}


@cache
def event_types() -> set[str]:
    """First arguments of calls whose second one is a severity."""
    return {kind for path in Path(edgecc.__file__).parent.rglob("*.py")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and len(node.args) > 1 and _is_severity(node.args[1])
            for kind in _texts(node.args[0])}


def _is_severity(node: ast.expr) -> bool:
    if isinstance(node, ast.IfExp):
        return _is_severity(node.body) and _is_severity(node.orelse)
    return isinstance(node, ast.Constant) and node.value in SEVERITIES


def _texts(node: ast.expr) -> Iterator[str]:
    """Of a constant, or of `learner-{why}`; a variable passes on what a caller wrote."""
    if isinstance(node, ast.Constant):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        [start, _] = node.values
        assert isinstance(start, ast.Constant)
        yield from (f"{start.value}{why}" for why in Ending.__args__ if why != "killed")
