"""deploy/install.sh for real, below a folder (`make arm`): it runs, and is renewed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.live_node import MakeNode
from support.patience import DEADLINE

ROOT = Path(__file__).parent.parent.parent


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*")
            if path.is_file()}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it has been installed, twice, with a change of the configuration in between."""
    folder = tmp_path_factory.mktemp("image")
    without = tmp_path_factory.mktemp("path")  # no systemctl
    for program in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        for path in Path(program).iterdir():
            if path.name != "systemctl" and not (without / path.name).exists():
                (without / path.name).symlink_to(path)
    environ = os.environ | {"PATH": str(without)}
    command = [str(ROOT / "deploy/install.sh"), "--prefix", str(folder), "--node", "cam1"]
    for _ in range(2):
        subprocess.run(command, check=True, env=environ)
        with (folder / "etc/edgecc/edgecc.yaml").open("a") as configuration:
            configuration.write("# mine\n")
    yield folder
    shutil.rmtree(folder)


def test_it_is_renewed_and_the_configuration_stays(image: Path) -> None:
    configuration = files(image / "etc")
    assert set(configuration) == {
        "edgecc/edgecc.yaml", "edgecc/secrets.yaml", "systemd/system/edgecc.service"}
    assert configuration["edgecc/edgecc.yaml"].startswith("node: cam1\n")
    assert configuration["edgecc/edgecc.yaml"].count("# mine") == 2
    unit = (ROOT / "deploy/edgecc.service").read_text()
    assert configuration["systemd/system/edgecc.service"] == unit
    start = re.search(r"^ExecStart=/(\S+)", unit, re.MULTILINE)
    assert start is not None
    assert os.access(image / start[1], os.X_OK)
    modes = [oct(path.stat().st_mode)[-3:] for path in
             (image / "etc/edgecc", image / "etc/edgecc/secrets.yaml")]
    assert modes == ["750", "640"]


def test_what_it_installs_runs_without_the_clone(image: Path, make_node: MakeNode) -> None:
    node = make_node()
    node.environ = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    node.python = str(image / "opt/edgecc/bin/python")
    node.start()
    info = node.peer.wait(lambda m: m.topic == node.topic("info"), timeout=DEADLINE).json
    assert info["node"] == node.name
    assert node.process is not None
    loaded = Path(f"/proc/{node.process.pid}/maps").read_text()
    assert f"{image}/opt/edgecc/lib" in loaded
    assert node.stop() == 0
