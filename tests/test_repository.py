"""What the repository says of itself is true: reference, help, README, imports."""

import ast
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import click
import pytest
import yaml

from edgecc.cli.main import main
from edgecc.config.loading import load
from edgecc.config.schema import keys, show

ROOT = Path(__file__).parent.parent
_OWN_DEFAULT = ("node", "state_dir")  # from host and home, null in the reference


def _flat(tree: dict[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in tree.items():
        inner = _flat(value, f"{prefix}{name}.") if value and isinstance(value, dict) else {
            prefix + name: value}
        found |= inner
    return found


def test_the_reference_has_every_key_with_its_default() -> None:
    written = _flat(yaml.safe_load((ROOT / "edgecc.yaml").read_text()))
    shown = _flat(show(load(None, environ={})))
    assert list(written) == list(keys())
    for key in _OWN_DEFAULT:
        assert written.pop(key) is None
        del shown[key]
    assert written == shown


def test_every_key_of_the_reference_has_a_comment_or_an_obvious_neighbour() -> None:
    lines = (ROOT / "edgecc.yaml").read_text().splitlines()
    bare = 0
    for number, line in enumerate(lines):
        if re.match(r"\s*[a-z_]+: \S", line):
            bare = 0 if lines[number - 1].lstrip().startswith("#") else bare + 1
            assert bare <= 2, f"edgecc.yaml:{number + 1} has no comment near it"


def test_the_reference_loads_as_a_configuration() -> None:
    assert load(ROOT / "edgecc.yaml", environ={}) == load(None, environ={})


def _commands(group: click.Group, prefix: str = "") -> set[str]:
    found: set[str] = set()
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found.add(prefix + name)
        if isinstance(command, click.Group):
            found |= _commands(command, f"{prefix}{name} ")
    return found


def test_every_command_in_the_readme_exists() -> None:
    known = _commands(main)
    readme = (ROOT / "README.md").read_text()
    code = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) + re.findall(r"`([^`\n]+)`", readme)
    used = re.findall(r"\bedgecc ([a-z]+(?: [a-z]+)?)\b", "\n".join(code))
    assert used
    for call in used:
        assert call in known or call.split()[0] in known, f"README: edgecc {call}"


def test_the_readme_has_no_figure_left_to_fill_in() -> None:
    assert not re.findall(r"@[a-z_]+@", (ROOT / "README.md").read_text())


def test_the_readme_names_the_tests_of_every_promise() -> None:
    rows = re.findall(r"^\| P(\d+) \|.*\| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 17))
    for number, files in rows:
        for name in re.findall(r"`([^`]+)`", files):
            source = (ROOT / "tests" / name).read_text()
            assert re.search(rf"def test_(p\d+_)*p{int(number):02d}_", source), (number, name)


def test_every_file_that_the_readme_links_to_is_there() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+(?:\.py)?)`", (ROOT / "docs/threat-model.md").read_text()))
    assert len(named) > 15
    files = list((ROOT / "tests").rglob("test_*.py"))
    there = {*(path.name for path in files), *(name for path in files for name in re.findall(
        r"^def (test_\w+)", path.read_text(), re.MULTILINE))}
    assert named - there == set()


def test_the_readme_names_functions_that_exist() -> None:
    """The table that follows one sample points at module.function."""
    table = (ROOT / "README.md").read_text().split("## Following one sample")[1].split("## ")[0]
    named = re.findall(r"`([\w.]+)\.(\w+)`", table)
    assert named
    for module, name in named:
        source = (ROOT / "edgecc" / f"{module.replace('.', '/')}.py").read_text()
        assert re.search(rf"(def|class) {name}\b", source), f"{module}.{name}"


@pytest.mark.parametrize("module", ["edgecc.cli.main", "edgecc.daemon.daemon"])
def test_what_must_stay_light_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded
    assert "torch" not in loaded
    if module == "edgecc.cli.main":
        assert loaded.isdisjoint({"numpy", "yaml", "paho", "sqlite3"})


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("learn/readout.py", "import edgecc.store.writer"),
        ("learn/blocks.py", "import yaml"),
        ("lab/papers/spela.py", "import edgecc.store.writer"),
        ("serving/predictor.py", "import sqlite3"),
        ("ingest/pipeline.py", "import paho.mqtt.client"),
        ("learn/readout.py", "import torch"),
    ],
)
def test_a_planted_import_violation_is_caught(tmp_path: Path, file: str, line: str) -> None:
    shutil.copytree(ROOT / "edgecc", tmp_path / "edgecc")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    before = _lint_imports(tmp_path)
    assert before.returncode == 0, before.stdout
    planted = tmp_path / "edgecc" / file
    planted.write_text(planted.read_text() + f"\n{line}\n")
    assert _lint_imports(tmp_path).returncode != 0


def _lint_imports(folder: Path) -> "subprocess.CompletedProcess[str]":
    tool = Path(sys.executable).parent / "lint-imports"
    return subprocess.run(
        [str(tool), "--no-cache"], cwd=folder, env={"PYTHONPATH": str(folder)},
        capture_output=True, text=True,
    )


def test_no_test_is_hidden_by_another_of_its_name() -> None:
    """Ruff's F811 would say so, but takes imported fixtures for the same."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        names = Counter(
            node.name for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.FunctionDef | ast.ClassDef))
        assert [name for name, times in names.items() if times > 1] == [], path
