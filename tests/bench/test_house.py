"""`edgecc bench house` counts what stands in a package made for it."""

from pathlib import Path
from typing import Any

import pytest

from edgecc.bench.house import measure
from edgecc.errors import ConfigError

FILES = {
    "pyproject.toml": """
[[tool.importlinter.contracts]]
type = "forbidden"
[[tool.importlinter.contracts]]
type = "layers"
layers = ["edgecc.bench", "edgecc.daemon | edgecc.lab", "edgecc.learn"]
""",
    "README.md": "Four\n",
    "edgecc/__init__.py": "",
    "edgecc/errors.py": "",
    "edgecc/bench/__init__.py": "import edgecc.daemon.loop\n",
    "edgecc/bench/more/__init__.py": "\n\n\n",
    "edgecc/bench/more/one.py": "",
    "edgecc/daemon/__init__.py": "",
    "edgecc/daemon/loop.py": (
        "from . import parts\nclass Daemon:\n    def join(self, other: 'Daemon') -> None: ...\n"),
    "edgecc/daemon/parts.py": """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from edgecc.daemon.loop import Daemon
class Part:
    daemon: "Daemon | None"  # this is no place for it
""",
    "edgecc/daemon/deep/__init__.py": "",
    "edgecc/lab/__init__.py": "def f(found):\n    for found in found:\n        pass\n",
    "edgecc/learn/__init__.py": "def f():\n    from edgecc.lab import f\n",
    "edgecc/learn/core.py": "from edgecc import learn, errors\nif (found := 1): pass  # anew\n",
}


def made(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def figures(tmp_path: Path) -> dict[str, Any]:
    return measure(made(tmp_path, FILES))


def test_rooms_count_with_their_sub_rooms_but_for_learn_and_bench(figures: dict[str, Any]) -> None:
    assert figures["root_files"] == 2
    assert (figures["largest_room"], figures["largest_room_name"]) == (4, "daemon")


def test_imports_upwards_and_circles_are_counted_wherever_they_hide(
    figures: dict[str, Any],
) -> None:
    assert figures["layers"] == 3
    assert figures["places"]["back_edges"] == ["edgecc.learn -> edgecc.lab"]
    assert figures["places"]["cycles"] == ["edgecc.daemon.loop edgecc.daemon.parts"]
    assert (figures["back_edges"], figures["cycles"]) == (1, 1)


def test_an_import_of_another_room_in_the_same_layer_is_one_too(tmp_path: Path) -> None:
    sideways = {"edgecc/lab/__init__.py": "from edgecc.daemon.loop import Daemon\n"}
    assert measure(made(tmp_path, FILES | sideways))["back_edges"] == 2


def test_who_takes_the_daemon_is_counted_by_module_and_not_the_daemon_itself(
    figures: dict[str, Any],
) -> None:
    assert figures["places"]["daemon_takers"] == ["edgecc.daemon.parts"]


def test_lines_functions_and_words(figures: dict[str, Any]) -> None:
    assert figures["lines"] == sum(
        text.count("\n") for name, text in FILES.items()
        if name.startswith("edgecc/") and not name.startswith("edgecc/bench/"))
    assert [figures[f"function_{which}"] for which in ("median", "longest")] == [2, 3]
    assert figures["readme_bytes"] == 5
    assert (figures["is_no"], figures["anew"], figures["found_bindings"]) == (1, 1, 3)


def test_without_sources_it_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give the folder of a checkout"):
        measure(tmp_path)
