"""A generation in shadow, inside a daemon that no broker reaches: what ends it, what waits."""

import json
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey
from support.datasets import Digits
from support.in_process_daemon import (  # noqa: F401
    Ids,
    MakeDaemon,
    ask,
    knows,
    make_daemon,
    pure,
    settle,
    take,
    taught,
    teach,
)

from edgecc.checkpoint import generation
from edgecc.checkpoint.manifest import CHUNK, FILES, Manifest
from edgecc.checkpoint.signing import key_id
from edgecc.cli.keys import revoke_key
from edgecc.daemon.daemon import Daemon
from edgecc.learn.readout import Readout

Taught = tuple[Daemon, Ids]
THEIRS = SigningKey(b"t" * 32)
BUSY = "samples are being unlearnt; ask again in a moment"
ABOUT_TO_SERVE = "a new generation is about to serve; ask again in a moment"


def answers(daemon: Daemon) -> list[dict[str, Any]]:
    return [json.loads(packet.payload) for packet in daemon.outbox._volatile
            if "/response/" in packet.topic]


def push(daemon: Daemon, folder: Path, **args: Any) -> None:
    """The command once, every chunk, the command again."""
    envelope = (folder / "manifest.json").read_text()
    ask(daemon, "push", id="first", manifest=envelope, **args)
    for name in FILES:
        data = (folder / name).read_bytes()
        for start in range(0, len(data), CHUNK):
            take(daemon, "checkpoint/put", data[start : start + CHUNK])
    ask(daemon, "push", id="push", manifest=envelope, **args)


def theirs(
    daemon: Daemon, root: Path, *others: str, labels: int = 40, key: SigningKey = THEIRS
) -> Path:
    """Another node's generation on this one's trunk: it has learnt 40 samples of class `theirs`."""
    assert daemon.parts.serving.predictor is not None
    now = daemon.parts.serving.predictor.generation
    readout = Readout(now.trunk.dim)
    for n in range(labels):
        readout.learn(np_features(now.trunk.dim, n), "theirs")
    about = generation.base_manifest(
        "other", daemon.config.input, cursor=labels, growth=3, others=list(others),
        recipe={"seed": 0, "scaled_on": 0})
    generation.write(root / "part", manifest=about, trunk=now.trunk, readout=readout)
    (root / "made").mkdir(exist_ok=True)
    number = generation.adopt(root / "part", root / "made", key).number
    return root / "made" / generation.name_of(number)


def np_features(dim: int, n: int) -> Any:
    import numpy as np

    return np.random.default_rng(n).integers(0, 255, dim).astype(np.float32)


@pytest.fixture
def trusting(make_daemon: MakeDaemon, tmp_path: Path, digits: Digits) -> Daemon:
    """It has learnt 100 digits."""
    daemon = make_daemon(tmp_path / "trusting", EDGECC_TRUSTED_KEYS=json.dumps(
        [THEIRS.verify_key.encode().hex()]))
    teach(daemon, digits, range(100))
    settle(daemon)
    return daemon


def serving(daemon: Daemon) -> Manifest:
    assert daemon.parts.serving.predictor is not None
    return daemon.parts.serving.predictor.generation.manifest


def test_what_is_unlearnt_during_a_trial_ends_it_and_nothing_that_knew_it_serves(
    taught: Taught, pure: Daemon
) -> None:
    daemon, ids = taught
    ask(daemon, "rollback", id="back", generation=1, force=True)
    assert daemon.parts.serving.candidate is not None
    ask(daemon, id="forget", ids=ids)
    settle(daemon)
    refused = next(one for one in answers(daemon) if one["id"] == "back")
    assert (refused["status"], refused["error"]) == ("error", BUSY)
    assert daemon.parts.serving.candidate is None
    assert knows(daemon) == knows(pure)


def test_nothing_else_changes_what_serves_during_a_trial(taught: Taught) -> None:
    daemon, _ = taught
    ask(daemon, "rollback", generation=0, force=True)
    for verb, args in (("rollback", {"generation": 0}), ("checkpoint", {}),
                       ("push", {"manifest": "{}"})):
        ask(daemon, verb, id=verb, **args)
    assert [one["error"] for one in answers(daemon)[-3:]] == [ABOUT_TO_SERVE] * 3
    settle(daemon)
    assert daemon.parts.serving.number == 0


def test_labels_that_come_during_a_trial_are_known_to_what_then_serves(
    taught: Taught, digits: Digits
) -> None:
    daemon, _ = taught
    ask(daemon, "rollback", generation=0, force=True)
    teach(daemon, digits, range(200, 260))
    settle(daemon)
    predictor = daemon.parts.serving.predictor
    assert predictor is not None
    assert (daemon.parts.serving.number, predictor.cursor) == (0, daemon.store.last_label())
    assert predictor.readout.counts.sum() == 160


def test_another_node_s_samples_stay_beside_this_one_s_over_restarts_and_saves(
    make_daemon: MakeDaemon, trusting: Daemon, tmp_path: Path, digits: Digits
) -> None:
    folder = theirs(trusting, tmp_path)
    push(trusting, folder, force=True)
    settle(trusting)
    pushed = serving(trusting)
    assert (pushed.node, pushed.cursor, pushed.growth) == ("n", 0, -1)
    assert pushed.others == [key_id(THEIRS.verify_key)]
    ask(trusting, "checkpoint")
    settle(trusting)
    assert (serving(trusting).others, serving(trusting).cursor) == (pushed.others, 100)
    before = knows(trusting)
    assert before[0].count("theirs") == 1
    trusting.link.stop()
    trusting.store.close()
    for path in trusting.config.state.live_readouts():
        path.unlink()  # as if nothing but the generation were left of it
    again = make_daemon(trusting.config.state.folder)
    settle(again)
    assert knows(again) == before
    ask(again, id="x", ids=["d-3"])
    settle(again)
    assert again.parts.serving.predictor is not None
    assert again.parts.serving.predictor.readout.counts.sum() == 139


def test_what_knows_this_node_s_own_samples_is_not_counted_twice(
    trusting: Daemon, tmp_path: Path
) -> None:
    before = knows(trusting)
    folder = theirs(trusting, tmp_path, key_id(trusting.keys.chain.newest))
    push(trusting, folder, force=True)
    settle(trusting)
    assert (serving(trusting).growth, serving(trusting).others) == (-1, [])
    assert knows(trusting) == before


def test_the_same_push_again_is_the_same_generation(trusting: Daemon, tmp_path: Path) -> None:
    folder = theirs(trusting, tmp_path)
    for _ in range(2):
        push(trusting, folder, force=True)
        settle(trusting)
        assert generation.numbers(trusting.parts.node.generations.folder) == [0, 1]
        assert trusting.parts.serving.number == 1


def test_what_is_staged_does_not_outlive_a_request_to_unlearn(
    trusting: Daemon, tmp_path: Path
) -> None:
    envelope = (theirs(trusting, tmp_path) / "manifest.json").read_text()
    ask(trusting, "push", manifest=envelope)
    assert len(list(trusting.config.state.pushed.iterdir())) == 1
    ask(trusting, ids=["d-3"])
    settle(trusting)
    assert not trusting.config.state.pushed.exists()


def test_a_key_that_was_revoked_is_not_trusted_though_it_is_listed(
    make_daemon: MakeDaemon, trusting: Daemon, tmp_path: Path
) -> None:
    old = trusting.keys.signing
    folder = theirs(trusting, tmp_path, key=old)
    trusting.link.stop()
    trusting.store.close()
    trusting.keys.rotate()
    revoke_key(trusting.config.state, key_id(old.verify_key))
    again = make_daemon(trusting.config.state.folder, EDGECC_TRUSTED_KEYS=json.dumps(
        [old.verify_key.encode().hex()]))
    ask(again, "push", manifest=(folder / "manifest.json").read_text())
    assert (answers(again)[-1]["code"], "no valid signature" in answers(again)[-1]["error"]) == (
        76, True)


def test_nothing_is_evicted_before_a_trial_has_seen_it(
    taught: Taught
) -> None:
    daemon, _ = taught
    assert not daemon.parts.upkeep.past_is_needed
    ask(daemon, "rollback", generation=0)
    assert daemon.parts.upkeep.past_is_needed
