"""deploy/install.sh: what it would do, and what it refuses. `make arm` installs for real."""

import os
import subprocess
from pathlib import Path

import pytest
from deploy.test_deploy import settings
from support.patience import run_command
from support.shipped import DEPLOY, needs

from edgecc.config.loading import load

ROOT = DEPLOY.parent
SCRIPT = DEPLOY / "install.sh"
SCRIPTS = [SCRIPT, DEPLOY / "system-packages", ROOT / "tests/arm/make-root"]


def install(*options: str, tmp_path: Path, expect: int = 0, **answers: str) -> str:
    """What the script prints where programs of this machine answer otherwise."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    for program, answer in answers.items():
        (folder / program).write_text(f"#!/bin/sh\n{answer}\n")
        (folder / program).chmod(0o755)
    done = run_command([SCRIPT, *options], stderr=subprocess.STDOUT,
                       env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"})
    assert done.returncode == expect, done.stdout
    return done.stdout


# A Pi on which nothing is installed yet.
PI = {"uname": '[ "$1" = -m ] && echo aarch64 || echo Cam_1.local', "getent": "exit 2",
      "dpkg": '[ "$1" = --print-architecture ] && echo arm64'}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    needs("shellcheck", "shellcheck")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_dry_run_says_all_that_a_pi_needs_and_does_nothing(tmp_path: Path) -> None:
    program, yaml = settings()["ExecStart"][0].split()[0], "/etc/edgecc/edgecc.yaml"
    there = {path: Path(path).exists() for path in (program, yaml)}
    said = install("--dry-run", tmp_path=tmp_path, **PI)
    assert all(line.startswith("would run: ") or "systemd does not run" in line
               for line in said.splitlines())
    for wanted in (
        "apt-get install -y -qq python3-venv mosquitto mosquitto-clients",
        "useradd --system --user-group --home-dir /var/lib/edgecc",
        f"python3 -m venv {Path(program).parent.parent}",
        f"-c {DEPLOY}/constraints-aarch64.txt",
        f"install -g edgecc -m 640 {DEPLOY}/edgecc.yaml {yaml}",
        f"sed -i 1,2d; s/NODE/cam-1/ {yaml}",
        f"{DEPLOY}/edgecc.service /etc/systemd/system/edgecc.service",
    ):
        assert wanted in said
    assert {path: Path(path).exists() for path in there} == there


def test_what_is_there_already_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "image"
    for file in ("etc/edgecc/edgecc.yaml", "etc/edgecc/secrets.yaml", "opt/edgecc/bin/pip"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch(0o755)
    said = install("--dry-run", "--prefix", str(folder), tmp_path=tmp_path)
    assert f"{folder}/opt/edgecc/bin/pip install" in said
    for unwanted in ("-m venv", "apt-get", "useradd", "edgecc.yaml", "secrets.yaml", "systemctl"):
        assert unwanted not in said


@pytest.mark.parametrize(("answers", "says"), [
    ({"dpkg": "echo armhf"}, "this system is armhf on aarch64"),
    ({"uname": "echo armv7l", "dpkg": "echo armhf"}, "install Raspberry Pi OS (64-bit)"),
    ({"python3": "echo 3.9"}, "Python 3.9 is too old, 3.11 is needed"),
    ({"dpkg": "exit 127"}, "no dpkg"), ({"id": "echo 1000"}, "needs root: sudo"),
])
def test_what_it_cannot_do_is_said_before_anything_is_done(
    tmp_path: Path, answers: dict[str, str], says: str
) -> None:
    never = dict.fromkeys(("apt-get", "useradd", "install"), f"touch {tmp_path}/done")
    said = install(tmp_path=tmp_path, expect=1, **PI | never | answers)
    assert says in said
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize(("options", "says"), [
    (["--prefx", "x"], "unknown option --prefx; see --help"), (["--prefix"], "needs a folder"),
    (["--dry-run", "--node", "Cam 1"], "use 1 to 64 of a-z"),
])
def test_a_wrong_option_is_refused(tmp_path: Path, options: list[str], says: str) -> None:
    assert says in install(*options, tmp_path=tmp_path, expect=1)


def test_the_configuration_it_installs_loads_and_fits_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "edgecc.yaml").read_text().replace("NODE", "cam1")
    (tmp_path / "secrets.yaml").write_text("mqtt_password: word\n")
    for written in (text, text.replace("# username", "username").replace("# password", "password")):
        (tmp_path / "edgecc.yaml").write_text(written)
        loaded = load(tmp_path / "edgecc.yaml", environ={})
        assert loaded.state_dir == f"/var/lib/{settings()['StateDirectory'][0]}"
        assert loaded.memory_budget < 512 * 2**20
    assert (loaded.node, loaded.mqtt.username, loaded.mqtt.password) == ("cam1", "cam1", "word")


def test_the_container_takes_the_same_constraints_and_extras() -> None:
    script, container = SCRIPT.read_text(), (DEPLOY / "Dockerfile").read_text()
    assert "deploy/constraints-$machine.txt" in script
    assert "deploy/constraints-$(uname -m).txt" in container
    assert "[cbor]" in script
    assert "[cbor]" in container
