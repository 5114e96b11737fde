"""What a node plans with: the control group's limit where it is less, and the costs measured."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edgecc.bench.device.imports import MODULES, WHOLE
from edgecc.bench.device.memory_meter import Group
from edgecc.config.schema import Config
from edgecc.errors import ConfigError
from edgecc.host import memory
from edgecc.host.memory import cgroup_limit, data_memory, proportional_memory, resident_memory
from edgecc.plan import budget
from edgecc.plan.costs import MIB, Costs


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of control groups in which this process is where it is in the real one."""
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    return tmp_path


def folders(groups: Path) -> list[Path]:
    """Where version 2 and version 1 count the memory of this process."""
    folders = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or controllers == "memory":
            folders.append((groups if number == "0" else groups / "memory") / path.strip("/"))
    return folders


def test_the_least_limit_above_a_process_counts_and_no_limit_is_none(groups: Path) -> None:
    assert cgroup_limit() is None
    inner = folders(groups)[0]
    inner.mkdir(parents=True, exist_ok=True)
    (inner / "memory.max").write_text("max\n")
    assert cgroup_limit() is None
    (inner / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert cgroup_limit() is None
    (inner / "memory.max").write_text(f"{300 * MIB}\n")
    assert cgroup_limit() == (300 * MIB, inner / "memory.max")
    root = inner
    while root.parent not in (groups, groups.parent):
        root = root.parent
    (root / "memory.limit_in_bytes").write_text(f"{200 * MIB}\n")
    assert cgroup_limit() == (200 * MIB, root / "memory.limit_in_bytes")


def test_a_node_plans_for_the_smaller_of_its_budget_and_its_control_group(
    groups: Path, tmp_path: Path
) -> None:
    config = Config(state_dir=str(tmp_path / "state"), memory_budget=512 * MIB)
    assert budget.of(config) == budget.Budget(512 * MIB, None, Costs(), None)
    inner = folders(groups)[0]
    inner.mkdir(parents=True, exist_ok=True)
    (inner / "memory.max").write_text(f"{1024 * MIB}\n")
    assert budget.of(config).size == 512 * MIB
    (inner / "memory.max").write_text(f"{256 * MIB}\n")
    assert budget.of(config).size == 256 * MIB
    assert budget.of(config).limit == inner / "memory.max"


def test_measured_costs_are_found_in_the_state_folder_and_a_broken_table_is_refused(
    tmp_path: Path
) -> None:
    config, costs = Config(state_dir=str(tmp_path / "state")), Costs(daemon=80 * MIB)
    table = config.state.costs
    budget.write(table, costs)
    assert budget.of(config).costs == costs
    assert budget.of(config).table == table
    for broken in ("{", "[]", '{"daemon": "much"}', '{"daemon": -1}', '{"deamon": 1}'):
        table.write_text(broken)
        with pytest.raises(ConfigError, match="edgecc bench costs"):
            budget.of(config)


def test_a_group_counts_what_runs_in_it_where_one_can_be_made() -> None:
    group = Group(f"edgecc-test-{os.getpid()}")
    try:
        child = subprocess.Popen(
            [*group.within, sys.executable, "-c",
             "x = bytearray(64 * 2**20); print(flush=True); input()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        counted = 64 * MIB < group.resident() < 96 * MIB
        assert counted or (group.folder is None and group.within == () and not group.resident())
        assert 64 * MIB < proportional_memory(child.pid) <= resident_memory(child.pid)
        assert data_memory(child.pid) > 64 * MIB
        child.communicate(b"\n")
    finally:
        group.close()


def test_every_dependency_is_in_the_table_of_imports() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    wanted = tomllib.loads(project.read_text())["project"]["dependencies"]
    names = {name.split(">")[0].split("=")[0] for name in wanted}
    assert names == set(MODULES)
    assert all(modules.startswith("edgecc.") for modules, _ in WHOLE.values())
