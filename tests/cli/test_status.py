"""What `edgecc status` prints of the messages that a node retains."""

from edgecc.cli.status import described


def line_about(what: str, **messages: object) -> str:
    [line] = [line for line in described({"status": "online", **messages}) if what in line]
    return line.strip()


def test_a_learner_is_shown_with_its_block_where_that_is_known() -> None:
    train = {"phase": "train", "growth": 4, "block": 2, "blocks": 3, "step": 50, "steps": 800}
    assert line_about("learner", train=train) == (
        "learner: train, growth 4, block 2 of 3, step 50 of 800")
    assert line_about("learner", train={"phase": "idle", "growth": 4}) == "learner: idle, growth 4"


def test_each_accuracy_is_shown_with_how_it_was_measured() -> None:
    health = {"prequential": {"window": 0.9, "cumulative": 0.8, "labelled_predictions": 70},
              "held_out": {"by_sample": 0.99, "by_source": 0.815}}
    assert line_about("prequential", health=health) == (
        "prequential accuracy: 0.900 of the last 1000 labelled, 0.800 of all 70")
    assert line_about("held-out", health=health) == (
        "held-out accuracy when last measured: 0.990 by sample, 0.815 by source")
    health["held_out"] = {}
    assert not [line for line in described({"status": "online", "health": health})
                if "held-out" in line]


def test_labels_not_yet_learnt_are_the_lag() -> None:
    health = {"log": {"samples": 9, "labels": 7, "quarantined": 1}, "lag": 3}
    assert line_about("lag", health=health) == "samples 9, label events 7, quarantined 1, lag 3"


def test_a_node_that_has_said_nothing_but_its_status_is_shown() -> None:
    assert next(iter(described({"status": "offline"}))) == "?: offline, generation ?, 0 classes"
