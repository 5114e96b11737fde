"""The wheel as a user gets it: in an empty environment, and the README's first session run from it.

With CI set, pip fetches every dependency, which takes a minute and a gigabyte for torch. Otherwise
the dependencies that the wheel declares, and only those, are links to the ones installed here.
"""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support.datasets import FASHION
from support.patience import run_command

import edgecc
from edgecc.mqtt.local_broker import find_mosquitto, free_port

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONSTRAINTS = ROOT / f"deploy/constraints-{os.uname().machine}.txt"
SESSION = re.findall(r"<!-- first session -->\n```sh\n(.*?)```", README, re.DOTALL)
SEEN = re.findall(r"```text\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as building leaves things beside the sources."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT / "edgecc", folder / "edgecc")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder],
        check=True)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bin folder of an environment with nothing but the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(folder)
    if not os.environ.get("CI"):
        [site] = folder.glob("lib/python*/site-packages")
        for name in _needed("edgecc", _requirements(wheel)):
            _link(metadata.distribution(name), site)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--quiet"]
    offline = [] if os.environ.get("CI") else ["--no-deps"]
    subprocess.run([*pip, *offline, "-c", CONSTRAINTS, wheel], check=True)
    yield folder / "bin"
    shutil.rmtree(folder)


def _requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as file:
        [name] = [one for one in file.namelist() if one.endswith(".dist-info/METADATA")]
        text = file.read(name).decode()
    return re.findall(r"^Requires-Dist: (.*)$", text, re.MULTILINE)


def _needed(name: str, requirements: list[str]) -> set[str]:
    """Distributions that `name` needs here, without extras, and what those need."""
    wanted = [Requirement(one) for one in requirements]
    names = {one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})}
    for one in names - {name}:
        names = names | _needed(one, metadata.requires(one) or [])
    return names


def _link(distribution: metadata.Distribution, site: Path) -> None:
    for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(distribution.locate_file(top))))


def test_the_wheel_has_types_schemas_and_nothing_of_the_tests(wheel: Path) -> None:
    assert wheel.name == f"edgecc-{edgecc.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert {"edgecc/py.typed", "edgecc/protocol/asyncapi.json"} <= set(names)
    schemas = {f"edgecc/protocol/schemas/{path.name}"
               for path in (ROOT / "edgecc/protocol/schemas").glob("*.json")}
    assert schemas <= set(names)
    assert {name.split("/")[0] for name in names} == {
        "edgecc", f"edgecc-{edgecc.__version__}.dist-info"}


def test_the_first_session_of_the_readme_runs_from_the_wheel(
    installed: Path, tmp_path: Path
) -> None:
    if find_mosquitto() is None or not FASHION.exists():
        pytest.skip("mosquitto or Fashion-MNIST is missing: apt install mosquitto "
                    "dataset-fashion-mnist")
    assert len(SESSION) == 2
    script = f"set -e; trap 'kill $(jobs -p) || :' EXIT\n{''.join(SESSION)}wait\n"
    environ = {"PATH": f"{installed}:/usr/sbin:/usr/bin:/bin", "HOME": str(tmp_path),
               "EDGECC_MQTT__PORT": str(free_port())}
    where = run_command([installed / "python", "-c", "import edgecc; print(edgecc.__file__)"],
                        env=environ, cwd=tmp_path)
    assert where.stdout.startswith(str(installed.parent)), where.stderr
    done = run_command(["bash", "-c", script], env=environ, cwd=tmp_path, seconds=300)
    log = tmp_path / "try/daemon.log"
    assert done.returncode == 0, (done.stdout, done.stderr, log.exists() and log.read_text())
    assert "Traceback" not in done.stderr + log.read_text()
    [seen] = SEEN
    printed = done.stdout.splitlines()
    for line in (line for line in seen.splitlines() if line.strip() != "..."):
        assert line in printed
        printed = printed[printed.index(line) + 1 :]
    assert (tmp_path / "try/checkpoints").is_dir()
