"""Unlearning what growths were trained on: they restart and end as if it had never come."""

import json
from typing import Any

import pytest
from support.datasets import SERIES, fashion_series
from support.growths import chain, manifests
from support.live_node import MakeNode, Node
from support.unlearnt import (
    Labelled,
    await_rows,
    left_in,
    live_readout,
    teach,
    unlearn,
)

from edgecc.checkpoint import generation
from edgecc.checkpoint.signing import load_key


@pytest.fixture(scope="module")
def fashion() -> Labelled:
    return [(f"f-{n}", x, str(y)) for n, (x, y) in enumerate(zip(*fashion_series(), strict=True))]


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {"grow": {"first": 200, "epochs": 8}, "input": SERIES, "stem": "patches"}


def closed(node: Node, *numbers: int) -> None:
    await_rows(node, "SELECT number FROM growth WHERE closed=1 ORDER BY number",
               [(number,) for number in numbers])


def test_a_running_growth_that_is_trained_on_a_sample_restarts_without_it(
    make_node: MakeNode, settings: dict[str, Any], fashion: Labelled
) -> None:
    kept, gone = fashion[:200], fashion[200:210]
    node = make_node(**settings)
    node.start()
    teach(node, [*kept[:100], *gone, *kept[100:]])
    node.peer.wait(lambda m: m.topic.endswith("/train") and m.json["phase"] == "training")
    heard = len(node.peer.messages)
    answer = unlearn(node, *(identity for identity, _, _ in gone))
    assert (answer["samples"], answer["growths_restarted"]) == (10, [1])
    assert answer["generations"]["trained"] == []
    answered = node.peer.find(lambda m: m.topic == node.topic("response/unlearn")
                              and "growths_restarted" in m.json["data"], after=heard)
    assert answered is not None
    closed(node, 1)
    after = node.peer.messages[node.peer.messages.index(answered):]
    steps = [m.json["step"] for m in after
             if m.topic.endswith("/train") and m.json.get("phase") == "training"]
    assert steps[0] == 0
    verdicts = [m.json["data"] for m in node.peer.messages if m.topic == node.topic("event")
                and m.json["type"] == "verdict" and m.json["data"]["block"] == 1]
    assert len(verdicts) == 1
    for one in manifests(node.state / "generations"):
        if one.growth:
            key = load_key(node.state / "node.key").verify_key
            folder = node.state / "generations" / generation.name_of(one.number)
            assert generation.load(folder, [key]).readout.counts.sum() == 200 - len(gone)
    assert left_in(node.state, gone) == []


# --- deep ---


def verdicts(node: Node) -> list[dict[str, Any]]:
    return [json.loads(body) for (body,) in node.rows(
        "SELECT body FROM verdict ORDER BY growth, block")]


def grown(node: Node, samples: Labelled, *growths: int) -> list[str]:
    """Digests of its generations once these growths are over and the last one serves."""
    node.start()
    teach(node, samples)
    settle(node, *growths)
    return chain(node)


def settle(node: Node, *growths: int) -> None:
    """Until these growths are over, or both, and the last generation serves."""
    closed(node, *(growths or (1, 3)))
    await_rows(node, "SELECT value FROM meta WHERE name='successor' AND value != -1", [])


def test_deep_ends_with_the_generations_of_a_node_that_never_saw_the_samples(
    make_node: MakeNode, settings: dict[str, Any], fashion: Labelled
) -> None:
    """Some came after the first growth, and only the second is done again; then those before it."""
    kept, early, late = fashion[:450], fashion[450:460], fashion[460:470]
    pure, node = make_node(**settings), make_node(**settings)
    wanted = grown(pure, kept, 1, 3)
    before = grown(node, [*kept[:100], *early, *kept[100:250], *late, *kept[250:]], 1, 3)
    assert before[:4] == wanted[:4]  # the stem, as the scale of 1, 4, 16 and 64 windows has it
    assert before[4] != wanted[4], "the first growth did not see them"
    again = unlearn(node, "--deep", *(identity for identity, _, _ in late))
    assert (again["samples"], again["growths_again"]) == (10, [3])
    settle(node)
    assert chain(node)[:5] == before[:5]
    answer = unlearn(node, "--deep", *(identity for identity, _, _ in early))
    assert (answer["samples"], answer["growths_again"]) == (10, [1, 3])
    removed = set(answer["removed"])
    assert removed
    assert removed.isdisjoint(generation.numbers(node.state / "generations"))
    for number in removed:
        node.peer.wait(lambda m, n=number: m.payload == b"" and m.topic == node.topic(
            f"checkpoint/{n}/manifest"))
    settle(node)
    assert chain(node) == wanted
    assert verdicts(node) == verdicts(pure)
    assert node.rows("SELECT seq, previous, label FROM label ORDER BY seq") == pure.rows(
        "SELECT seq, previous, label FROM label ORDER BY seq")
    assert left_in(node.state, [*early, *late]) == []
    probes = [x for _, x, _ in fashion[600:605]]
    assert [node.ask(x)["top"] for x in probes] == [pure.ask(x)["top"] for x in probes]
    assert live_readout(node) == live_readout(pure)
