"""Commands without a node: exit codes and messages."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from support.patience import run_command

from edgecc.cli.main import COMMANDS, main
from edgecc.mqtt import local_broker as broker


def _run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), env=env)


def test_the_root_help_lists_every_command_and_imports_none() -> None:
    code = """
import sys
from edgecc.cli.main import main
main(["--help"], standalone_mode=False)
print("imported", *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shown, imported = done.stdout.split("imported ")
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    heavy = {"torch", "numpy", "yaml", "paho", "sqlite3", "nacl"}
    assert heavy.isdisjoint(name.split(".")[0] for name in imported.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_root_help_says_of_a_command_what_its_own_help_says_first(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").split("\n\n")[0] == COMMANDS[name][1]


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder and home, so that no configuration is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    return tmp_path


@pytest.mark.usefixtures("nowhere")
def test_init_writes_a_configuration_that_checks() -> None:
    assert _run("init", "--node", "cam1", "--shape", "1,28,28").exit_code == 0
    checked = _run("config", "check")
    assert checked.exit_code == 0, checked.output
    assert "cam1" in checked.output
    shown = json.loads(_run("config", "show", "--json").output)
    assert shown["input"]["shape"] == [1, 28, 28]


def test_init_overwrites_nothing_unasked(nowhere: Path) -> None:
    (nowhere / "edgecc.yaml").write_text("node: mine\n")
    refused = _run("init")
    assert refused.exit_code == 78
    assert "--force" in refused.output
    wrong = _run("init", "--force", "--shape", "7")
    assert wrong.exit_code == 78
    assert (nowhere / "edgecc.yaml").read_text() == "node: mine\n"


@pytest.mark.usefixtures("nowhere")
def test_plan_shows_where_every_byte_goes() -> None:
    plan = json.loads(_run("plan", "--json", env={"EDGECC_MEMORY_BUDGET": "512MiB"}).output)
    assert sum(plan["where"].values()) == plan["total"] <= plan["budget"] == 512 * 2**20
    assert plan["blocks"]
    narrow = {"EDGECC_MEMORY_BUDGET": "320MiB", "EDGECC_INPUT__SHAPE": "[1, 28, 28]"}
    chosen = [json.loads(_run("plan", "--json", env=narrow | more).output) for more in (
        {}, {"EDGECC_GROW__BACKEND": "torch"})]
    assert [one["backend"] for one in chosen] == ["numpy", "torch"]
    assert len(chosen[0]["blocks"]) == len(chosen[1]["blocks"]) == 3


@pytest.mark.usefixtures("nowhere")
def test_a_budget_that_fits_nothing_names_the_smallest_that_does() -> None:
    refused = _run("plan", env={"EDGECC_MEMORY_BUDGET": "50MiB"})
    assert refused.exit_code == 78
    assert "the smallest is" in refused.output


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("command", [("status",), ("checkpoint", "list"), ("label", "a", "b")])
def test_without_a_broker_commands_say_so_and_exit_75(command: tuple[str, ...]) -> None:
    here = {"EDGECC_MQTT__PORT": str(broker.free_port()), "EDGECC_MQTT__HOST": "127.0.0.1"}
    refused = _run(*command, env=here)
    assert refused.exit_code == 75, refused.output
    assert "no connection to the broker at 127.0.0.1" in refused.output


def test_start_without_broker_or_configuration_says_how_to_get_going(nowhere: Path) -> None:
    done = run_command([sys.executable, "-m", "edgecc", "start"], cwd=nowhere, env={
        "HOME": str(nowhere), "PATH": "/usr/bin", "EDGECC_MQTT__PORT": str(broker.free_port())})
    assert done.returncode == 78, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "edgecc start --with-broker" in last
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("nowhere")
def test_a_folder_that_is_no_checkpoint_exits_76(tmp_path: Path) -> None:
    refused = _run("checkpoint", "verify", str(tmp_path), "--key", "00" * 32)
    assert refused.exit_code == 76
    assert "is not a checkpoint" in refused.output


@pytest.mark.usefixtures("nowhere")
def test_a_usage_error_exits_2() -> None:
    assert _run("stream").exit_code == 2
    assert _run("no-such-command").exit_code == 2
