"""docs/lab.md is true: its examples run, in order, and learn; the recipe runs under torchrun."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.patience import run_command

import edgecc.lab
from edgecc.lab import coresnet50

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/lab.md").read_text(), re.DOTALL)
RECIPE = "# train_coresnet.py"


def test_importing_the_lab_loads_torch_only_with_the_first_name() -> None:
    code = (
        "import sys, edgecc.lab; print('torch' in sys.modules);"
        "edgecc.lab.PoolConv; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_every_public_name_is_there_and_documented() -> None:
    for name in edgecc.lab.__all__:
        assert getattr(edgecc.lab, name).__doc__, name
        assert f"`{name}`" in (ROOT / "docs/lab.md").read_text(), name
    assert set(edgecc.lab.__all__) <= set(dir(edgecc.lab))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = edgecc.lab.Nothing


def test_the_examples_run_and_learn() -> None:
    session: dict[str, Any] = {}
    for example in EXAMPLES:
        if not example.startswith(RECIPE):
            exec(compile(example, "docs/lab.md", "exec"), session)
    assert session["pair_accuracy"] > 0.8
    assert session["mlp_accuracy"] > 0.8
    assert session["cnn_accuracy"] > 0.8
    assert session["scores"].shape == (2, 10)


def test_the_recipe_trains_on_two_processes_and_its_checkpoint_loads(tmp_path: Path) -> None:
    (script,) = [example for example in EXAMPLES if example.startswith(RECIPE)]
    (tmp_path / "train_coresnet.py").write_text(script)
    done = run_command(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "train_coresnet.py"], seconds=120, cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", done.stdout)]
    assert len(losses) == 4
    assert losses[-1] < losses[0]

    saved = torch.load(tmp_path / "coresnet50.pt", weights_only=True)
    assert all(name.startswith("module.") for name in saved["state_dict"])
    model = coresnet50(num_classes=10)
    model.load_state_dict(saved)
    assert torch.equal(model.fc.weight, saved["state_dict"]["module.fc.weight"])
