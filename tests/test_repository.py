"""What the repository says about itself is true: documents, reference, help, imports."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import click
import pytest
import yaml
from faults.hook.sitecustomize import POINTS
from support.event_types import event_types

import edgecc
from edgecc.bench.house import measure
from edgecc.cli.main import main
from edgecc.config.loading import load
from edgecc.config.reload import AT_RUN_TIME
from edgecc.config.schema import keys, show
from edgecc.daemon.commands import VERBS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")),
             ROOT / "deploy/README.md"]
_OWN_DEFAULT = ("node", "state_dir")  # from host and home, null in the reference


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def _flat(tree: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if value and isinstance(value, dict) else {
            prefix + name: value}
    return flat


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
    names: set[str] = set()
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        names.add(prefix + name)
        if isinstance(command, click.Group):
            names |= _commands(command, f"{prefix}{name} ")
    return names


def _slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", DOCUMENTS, ids=_name)
def test_every_link_of_a_document_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in map(_slug, headings), f"{target}#{anchor}"


@pytest.mark.parametrize("page", DOCUMENTS, ids=_name)
def test_every_command_that_a_document_names_exists(page: Path) -> None:
    known, text = _commands(main), page.read_text()
    code = re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
    groups = {call.split()[0] for call in known if " " in call}
    for first, second in re.findall(
        r"(?<![\w/.'=-])edgecc ([a-z]+)(?: ([a-z-]+))?\b", "\n".join(code)
    ):
        assert first in known, f"edgecc {first}"
        if second and first in groups:
            assert f"{first} {second}" in known, f"edgecc {first} {second}"


@pytest.mark.parametrize("page", DOCUMENTS, ids=_name)
def test_no_document_has_a_figure_left_to_fill_in(page: Path) -> None:
    assert not re.findall(r"@[a-z_]+@", page.read_text())


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) < 8000


def test_the_newest_section_of_the_changelog_is_this_version() -> None:
    [newest, *_] = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert re.fullmatch(rf"{re.escape(edgecc.__version__)} – \d{{4}}-\d\d-\d\d", newest)


def test_the_index_lists_every_page() -> None:
    listed = set(re.findall(r"^\| \[([\w./-]+)\]", _page("README"), re.MULTILINE))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert listed == pages | {"../deploy/README.md"}


def test_the_table_of_keys_is_the_configuration() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| (yes)? ?\| \S", _page("configuration"),
                      re.MULTILINE)
    assert [key for key, _, _ in rows] == list(keys())
    shown = _flat(show(load(None, environ={})))
    for key, default, restart in rows:
        assert (key in AT_RUN_TIME) != bool(restart), key
        if key not in _OWN_DEFAULT:
            assert yaml.safe_load(default.strip("`") or "~") == shown[key], key


def test_the_protocol_names_the_tests_of_every_promise() -> None:
    page = _page("protocol")
    rows = re.findall(r"^\| P(\d+) \|.*\| (.*) \|$", page, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 17))
    assert re.findall(r"^- \*\*P(\d+): ", page, re.MULTILINE) == [number for number, _ in rows]
    for number, files in rows:
        for name in re.findall(r"`([^`]+)`", files):
            source = (ROOT / "tests" / name).read_text()
            assert re.search(rf"def test_(p\d+_)*p{int(number):02d}_", source), (number, name)


def test_the_protocol_lists_every_event() -> None:
    table = _page("protocol").split("## Events")[1].split("## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} == event_types()


def test_rooms_import_downwards_without_circles_and_nothing_takes_the_daemon() -> None:
    """Imports for type checking counted."""
    figures = measure(ROOT)
    assert (figures["places"]["back_edges"], figures["places"]["cycles"]) == ([], [])
    assert figures["daemon_takers"] == 0


def test_every_crash_point_of_the_fault_tests_is_there() -> None:
    for module, function, _ in (
        place for points in POINTS.values() for place in points.values()):
        assert callable(attrgetter(function)(import_module(module))), (module, function)


def test_the_protocol_lists_every_verb() -> None:
    table = _page("protocol").split("## Commands")[1].split("## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(VERBS)


def test_the_architecture_has_the_layers_of_the_import_contract() -> None:
    rows = re.findall(r"^\| (\d*) ?\| `(\w+)` \|", _page("architecture"), re.MULTILINE)
    layers: list[set[str]] = []
    for layer, room in rows:
        layers += [set()] if layer else []
        layers[-1].add(room)
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert layers == [{room.strip().removeprefix("edgecc.") for room in layer.split("|")}
                      for layer in contract["contracts"][0]["layers"]]
    assert [layer for layer, _ in rows if layer] == [str(n) for n in range(len(layers), 0, -1)]


def test_the_architecture_lists_every_thread() -> None:
    threads = {name for path in (ROOT / "edgecc").rglob("*.py") if "bench" not in path.parts
               for name in re.findall(r"Thread\([^)]*name=\"([^\"]+)\"", path.read_text())}
    table = _page("architecture").split("## Processes and threads")[1].split("## ")[0]
    assert set(re.findall(r"^\| `([\w ]+)`", table, re.MULTILINE)) == threads


@pytest.mark.parametrize("page", DOCUMENTS, ids=_name)
def test_every_module_that_a_document_names_exists(page: Path) -> None:
    for name in re.findall(r"`((?:\w+/)*\w+\.py)`", page.read_text()):
        places = [list(ROOT.glob(name)), *(list((ROOT / top).rglob(name))
                                           for top in ("edgecc", "tests"))]
        assert any(places), name


def test_every_message_of_the_troubleshooting_page_is_one_of_the_code() -> None:
    cells = re.findall(r"^\| (`.*?) \|", _page("troubleshooting"), re.MULTILINE)
    ours = [quote for cell in cells for quote in re.findall(r"`([^`]+)`", cell)
            if " " in quote and not quote.startswith(("edgecc ", "operator "))]
    assert len(ours) > 10
    # Of literals that stand next to each other the code makes one text.
    sources = "".join(re.sub(r'"\s*f?"', "", path.read_text())
                      for path in (ROOT / "edgecc").rglob("*.py"))
    for quote in ours:
        for part in re.split(r"\s*…\s*", quote):
            assert part in sources, quote


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+(?:\.py)?)`", (ROOT / "docs/threat-model.md").read_text()))
    assert len(named) > 15
    files = list((ROOT / "tests").rglob("test_*.py"))
    there = {*(path.name for path in files), *(name for path in files for name in re.findall(
        r"^def (test_\w+)", path.read_text(), re.MULTILINE))}
    assert named - there == set()


def test_the_architecture_names_functions_that_exist() -> None:
    """The table that follows one sample points at module.function."""
    table = _page("architecture").split("## Following one sample")[1].split("## ")[0]
    named = re.findall(r"`([\w.]+)\.(\w+)`", table)
    assert named
    for module, name in named:
        source = (ROOT / "edgecc" / f"{module.replace('.', '/')}.py").read_text()
        assert re.search(rf"(def|class) {name}\b", source), f"{module}.{name}"


def test_pre_commit_runs_what_make_check_runs() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for repo in hooks for hook in repo["hooks"]] == commands
    assert {repo["repo"] for repo in hooks} == {"local"}


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    [targets] = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True,
        check=True).stdout
    assert re.findall(r"^make (\w+)", listed, re.MULTILINE) == targets.split()


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
