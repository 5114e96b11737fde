"""What a learner reports while it runs a growth: each phase, and the blocks that it is about."""

from pathlib import Path

from support.datasets import Digits
from support.learner_jobs import labelled, supervisor
from support.patience import taken

from edgecc.plan.plan import BlockSize, Plan


def test_every_phase_names_its_blocks(tmp_path: Path, digits: Digits) -> None:
    images, labels = digits
    blocks = (BlockSize(8, 3, 1, 2), BlockSize(8, 3, 1, 2))
    plan = Plan(4, 3, blocks, 16, 64, {}, backend="numpy")
    made, learner, reports = labelled(tmp_path, (images[:60], labels[:60]), plan), supervisor(), []
    try:
        learner.give(made.order("growth", epochs=1.0))
        while (message := taken(learner.messages)) is not None and message["type"] != "done":
            if message["type"] == "train":
                reports.append((message["phase"], message["blocks"], message.get("block")))
    finally:
        learner.stop()
        made.store.close()
    assert list(dict.fromkeys(reports)) == [
        ("evaluating", 0, None), ("training", 2, None), ("freezing", 2, 1), ("freezing", 2, 2),
        ("evaluating", 2, None)]
