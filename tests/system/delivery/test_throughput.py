"""A long queue is worked off whole and in order, with predictions and without."""

from support.datasets import Digits
from support.live_node import MakeNode, Node


def in_order(node: Node) -> list[str]:
    topic = node.topic("out/t/prediction")
    return [m.json["sample_id"] for m in node.peer.messages if m.topic == topic]


def test_of_a_long_queue_every_prediction_comes_in_order(node: Node, digits: Digits) -> None:
    node.kill()
    ids = [node.send(image.tobytes(), wait=False) for image in digits[0][:1000]]
    node.peer.publish(node.topic("in/t/label"), b'{"id": "none", "label": null}')  # all are there
    node.start()
    node.prediction(ids[-1])
    assert in_order(node) == ids
    assert node.receipts().keys() == {*ids, "none"}
    health = node.peer.wait(lambda m: m.topic == node.topic("health"), after=len(ids)).json
    assert (health["connections"], health["dropped"]["predictions"]) == (1, 0)


def test_without_predictions_samples_are_stored_and_labels_learnt(
    make_node: MakeNode, digits: Digits
) -> None:
    images, labels = digits
    node = make_node(predict=False)
    node.start()
    ids = node.stream(images[:100], labels[:100])
    for identity in ids:
        assert node.receipt(identity)["status"] == "stored"
    node.peer.wait(lambda m: m.topic == node.topic("health") and m.json["readout"] == 100)
    assert node.rows("SELECT COUNT(*) FROM prediction") == [(0,)]
    assert not in_order(node)
    assert node.stop() == 0
    (node.folder / "edgecc.yaml").write_text(node.config.read_text().replace("false", "true"))
    node.start()
    asked = node.ask(images[3])
    assert asked["label"] == str(labels[3])
    assert asked["readout"] == 100
