"""The names that `import edgecc` gives: each imported when it is first used, and working."""

import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from support.datasets import Digits
from support.live_node import Node
from support.patience import run_command
from support.pulled import elsewhere, pull, taught  # noqa: F401

import edgecc
from edgecc.errors import MessageError, Untrusted

PAGE = Path(__file__).parent.parent / "docs/python.md"


def test_importing_edgecc_imports_nothing_else_until_a_name_is_used() -> None:
    code = """
import sys, edgecc
print({"numpy", "yaml", "torch", "edgecc.learn"} & set(sys.modules))
edgecc.Readout
print({"numpy", "yaml", "torch", "edgecc.learn"} & set(sys.modules) == {"numpy", "edgecc.learn"})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "True"]


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(getattr(edgecc, name) is not None for name in edgecc.__all__)
    assert all(f"\n    {name} " in (edgecc.__doc__ or "")
               for name in edgecc.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="nothing_of_the_sort"):
        _ = edgecc.nothing_of_the_sort


def test_the_rooms_of_the_learning_core_are_themselves() -> None:
    assert edgecc.learn is import_module("edgecc.learn")
    assert edgecc.lab.SpelaTrainer is import_module("edgecc.lab.papers.spela").SpelaTrainer


def test_a_readout_learns_and_unlearns_to_the_bit() -> None:
    readout = edgecc.Readout(3)
    readout.learn(np.array([1, 2, 3], np.float32), "cat")
    before = readout.weights(1.0).copy()
    readout.learn(np.array([3, 1, 0], np.float32), "cat")
    readout.unlearn(np.array([3, 1, 0], np.float32), "cat")
    assert np.array_equal(readout.weights(1.0), before)


def test_the_examples_of_the_documentation_run(
    taught: Node, elsewhere: Path, digits: Digits
) -> None:
    pull(taught, elsewhere)
    shutil.copy(taught.config, elsewhere / "edgecc.yaml")
    np.save(elsewhere / "picture.npy", digits[0][1000])
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    printed = [run_command([sys.executable, "-c", example], cwd=elsewhere) for example in examples]
    assert [done.returncode for done in printed] == [0, 0], printed
    assert printed[0].stdout.split()[0] == taught.ask(digits[0][1000])["label"]
    assert "'generation': 1" in printed[1].stdout


def test_the_page_and_the_package_list_the_same_names() -> None:
    listed = re.findall(r"^\| `edgecc\.(\w+)", PAGE.read_text(), re.MULTILINE)
    assert sorted([*listed, "__version__"]) == sorted(edgecc.__all__)


def test_a_client_asks_the_node_of_its_configuration(taught: Node) -> None:
    with edgecc.Client(edgecc.configuration(taught.config)) as client:
        assert client.command("ping", {})["generation"] == 1


def test_a_pulled_checkpoint_is_loaded_and_predicts_as_its_node_does(
    taught: Node, elsewhere: Path, digits: Digits
) -> None:
    folder = pull(taught, elsewhere)
    classifier = edgecc.load(folder)
    assert classifier.input.shape == (1, 8, 8)
    assert sorted(classifier.classes) == [str(digit) for digit in range(10)]
    for picture in digits[0][1000:1020]:
        label, score = classifier.predict(picture)
        asked = taught.ask(picture)
        assert (label, score) == (asked["label"], pytest.approx(asked["score"], rel=1e-4))
        assert classifier.predict(picture[0].tolist()) == (label, score)
    with pytest.raises(MessageError, match=r"does not fit input\.shape"):
        classifier.predict(np.zeros((9, 9)))
    with pytest.raises(MessageError, match="neither JPEG nor PNG"):
        classifier.predict(b"\xff\xd8\xff")
    with pytest.raises(Untrusted):
        edgecc.load(folder, "00" * 32)
