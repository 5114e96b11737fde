"""The learner: it grows beside the daemon, and killed or not it makes the same generations."""

import json
import os
import re
import select
import signal
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey
from support.datasets import SERIES, Digits, fashion_series
from support.growths import await_closed, chain
from support.learner_jobs import labelled
from support.live_node import MakeNode, Node
from support.patience import APART, DEADLINE, until
from support.peer import Message

from edgecc.checkpoint import generation, signing
from edgecc.learn.backends import Backend
from edgecc.learn.readout import Readout
from edgecc.plan import planner
from edgecc.plan.plan import BlockSize, Plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.sample import Input
from edgecc.store.growth_log import Growth
from edgecc.training import growth as growing
from edgecc.training.dataset import Rows
from edgecc.training.growth import Grower


@pytest.fixture(scope="module")
def fashion() -> Digits:
    return fashion_series()


def training(message: Message) -> bool:
    return message.topic.endswith("/train") and message.json["phase"] == "training"


def verdicts(node: Node) -> list[dict[str, Any]]:
    events = [m.json for m in node.peer.messages if m.topic == node.topic("event")]
    return [event["data"] for event in events if event["type"] == "verdict"]


def test_blocks_grow_beside_predictions_and_only_the_learner_has_torch(
    make_node: MakeNode, digits: Digits
) -> None:
    images, labels = digits
    node = make_node(grow={"first": 200, "epochs": 8, "idle_exit": 4}, memory_budget="1GiB")
    node.start()
    assert node.learner is None
    node.stream(images[:500], labels[:500])
    node.peer.wait(training)
    assert node.process is not None
    assert node.learner is not None
    left = os.pidfd_open(node.learner)
    assert "libtorch" in Path(f"/proc/{node.learner}/maps").read_text()
    assert "libtorch" not in Path(f"/proc/{node.process.pid}/maps").read_text()
    right = sum(node.ask(images[n])["label"] == str(labels[n]) for n in range(500, 540))
    assert right >= 32
    await_closed(node, 3)
    judged = verdicts(node)
    assert {(verdict["growth"], verdict["block"]) for verdict in judged} >= {(1, 1), (3, 1)}
    for verdict in judged:
        assert verdict["cursor"] == 200 * 2 ** (verdict["growth"] // 2)
        assert verdict["held_rows"] > 0
        assert 0.5 < verdict["held_out"] <= 1.0
        kept = max((v for v in judged if v["growth"] == verdict["growth"]),
                   key=lambda v: (v["held_out"], -v["block"]))
        better = verdict["held_out"] > max(kept["held_out_without"], verdict["held_out_serving"])
        assert verdict["accepted"] == (better and verdict is kept)
    assert len(chain(node)) == 1 + sum(verdict["accepted"] for verdict in judged)
    assert 0 < peak_of(node) <= learner_limit(node)
    until(lambda: select.select([left], [], [], APART)[0], "the idle learner does not exit")
    os.close(left)
    assert node.ask(images[600])["label"] == str(labels[600])
    assert node.learner is None


def learner_limit(node: Node) -> int:
    where = json.loads(node.run("plan", "--json").stdout)["where"]
    return sum(size for use, size in where.items() if use.startswith("learner"))


def peak_of(node: Node) -> int:
    """VmHWM of the running learner, bytes."""
    assert node.learner is not None
    status = Path(f"/proc/{node.learner}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    return int(peak[1]) * 1024


def test_a_killed_learner_is_started_again_and_its_growth_ends(
    make_node: MakeNode, digits: Digits
) -> None:
    images, labels = digits
    node = make_node(grow={"first": 200, "epochs": 20})
    node.start()
    node.stream(images[:200], labels[:200])
    node.peer.wait(training)
    killed, heard = node.learner, len(node.peer.messages)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    assert node.ask(images[300])["label"] == str(labels[300])
    node.peer.wait(training, after=heard)
    assert node.learner not in (killed, None)
    await_closed(node, 1)
    assert [(verdict["growth"], verdict["block"]) for verdict in verdicts(node)][:1] == [(1, 1)]


def test_an_accepted_generation_serves_even_if_the_daemon_is_killed_before_it_does(
    make_node: MakeNode, fashion: Digits
) -> None:
    images, labels = fashion
    node = make_node(grow={"first": 400, "epochs": 8}, input=SERIES)
    node.start()
    node.stream(images[:200], labels[:200], prefix="before")
    node.receipt("before-199")
    node.peer.publish(node.topic("command/checkpoint"), '{"id": "1"}')
    node.peer.wait(lambda m: m.topic == node.topic("event")
                   and m.json["type"] == "generation")
    node.stream(images[200:], labels[200:], prefix="after")
    successor = "SELECT value FROM meta WHERE name='successor' AND value >= 0"
    accepted = until(lambda: node.rows(successor), "nothing was accepted",
                     seconds=3 * DEADLINE, every=0.002)  # sooner than an event: the swap is near
    node.kill()
    assert node.rows(successor) == accepted, "too late"
    wanted = accepted[0][0]
    heard = len(node.peer.messages)
    node.start()
    node.peer.wait(lambda m: m.topic == node.topic("event") and m.json["type"] == "generation"
                   and m.json["data"]["generation"] >= wanted, after=heard)
    assert node.ask(images[0])["generation"] >= wanted  # at once, without waiting for it


def test_a_candidate_that_was_signed_just_before_a_crash_is_adopted_after_it(
    tmp_path: Path,
) -> None:
    spec, key = Input("image", (1, 8, 8)), SigningKey.generate()
    plan = planner.plan(2**29, spec, max_payload=2**20, blocks=2)
    trunk = stem_trunk(plan, spec, 0)
    candidate, generations = tmp_path / "candidate", tmp_path / "generations"
    generations.mkdir()
    written = generation.write(
        candidate, manifest=generation.base_manifest("node", spec), trunk=trunk,
        readout=Readout(trunk.dim))
    signed = signing.sign((candidate / "manifest.json").read_bytes(), key)
    (candidate / "manifest.json").write_bytes(signed)
    assert generation.adopt(candidate, generations, key).digest == written.digest
    generation.load(generations / "000000", [key.verify_key], spec)


class Killed(Exception):
    """In place of a SIGKILL, where a process could not be killed at an exact step."""


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_a_block_that_is_resumed_in_the_middle_of_its_training_is_the_same(
    tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch, backend: Backend
) -> None:
    monkeypatch.setattr(growing, "_SNAPSHOT_EVERY", 0.0)
    images, labels = digits
    blocks = BlockSize(16, 3, 2, 2), BlockSize(32, 3, 1, 2)
    plan = Plan(16, 3, blocks, 64, 64, {}, backend=backend)
    log = labelled(tmp_path, (images[:200], labels[:200]), plan)

    def run(folder: Path, killed_at: list[int]) -> list[dict[str, Any]]:
        def report(progress: dict[str, Any]) -> None:
            if killed_at and progress["phase"] == "training" and progress["step"] >= killed_at[0]:
                del killed_at[0]
                raise Killed

        folder.mkdir(exist_ok=True)
        grower = Grower(
            Growth(1, 200, {"epochs": 45, "seed": 0, "method": "contextual-random"}),
            log.parent, Rows.at(log.store, log.spec, 200), plan=log.plan, folder=folder,
            report=report)
        return list(grower.run())

    interrupted, moments = 0, [50, 100]
    while moments:
        with pytest.raises(Killed):
            run(tmp_path / "killed", moments)
        interrupted += 1
        assert (tmp_path / "killed/training.safetensors").exists()
    judged = run(tmp_path / "killed", moments), run(tmp_path / "calm", [])
    assert interrupted == 2
    files = [(tmp_path / name / "training.safetensors").read_bytes() for name in ("killed", "calm")]
    assert files[0] == files[1]
    assert judged[0][0]["held_out"] == judged[1][0]["held_out"]
    log.store.close()


def test_holding_out_whole_sources_for_a_figure_leaves_no_trace(
    tmp_path: Path, digits: Digits
) -> None:
    images, labels = digits
    made: list[list[dict[str, Any]]] = []
    for sources in (1, 4):
        plan = Plan(2, 3, (BlockSize(32, 3, 2, 2),), 64, 64, {}, backend="numpy")
        (tmp_path / str(sources)).mkdir()
        log = labelled(tmp_path / str(sources), (images[:500], labels[:500]), plan, sources=sources)
        made.append(list(Grower(
            Growth(1, 500, {"epochs": 20, "seed": 0}), log.parent,
            Rows.at(log.store, log.spec, 500), plan=plan, folder=tmp_path / str(sources),
            report=lambda _: None).run()))
        log.store.close()
    [alone], [grouped] = made
    assert 0.5 < grouped.pop("held_out_by_source") < 1
    assert alone.pop("accepted")
    candidates = [Path(one.pop("candidate")) for one in (alone, grouped)]
    assert grouped.pop("accepted")
    assert alone == grouped  # with the digest of all that is written
    metrics = [json.loads((one / "manifest.json").read_bytes())["metrics"] for one in candidates]
    assert [set(one) for one in metrics] == [{"held_out"}, {"held_out", "held_out_by_source"}]


def test_a_plan_without_room_for_blocks_starts_no_learner(
    make_node: MakeNode, digits: Digits
) -> None:
    node = make_node(grow={"first": 200}, memory_budget="128MiB")
    assert json.loads(node.run("plan", "--json").stdout)["blocks"] == []
    node.start()
    ids = node.stream(digits[0][:210], digits[1][:210])
    node.receipt(ids[-1])
    assert node.ask(digits[0][300])["label"] == str(digits[1][300])
    assert node.rows("SELECT COUNT(*) FROM growth") == [(0,)]
    assert node.learner is None
