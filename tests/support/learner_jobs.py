"""A log with a parent generation, and orders to a real learner, without a daemon."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey
from support.datasets import Digits
from support.patience import taken

from edgecc.checkpoint import generation
from edgecc.checkpoint.generation import Generation
from edgecc.learn.readout import Readout
from edgecc.plan.plan import Plan
from edgecc.plan.stem_trunk import stem_trunk
from edgecc.protocol.messages import Label
from edgecc.protocol.sample import Input, Sample
from edgecc.store.writer import Store
from edgecc.training.orders import Order
from edgecc.training.supervisor import Supervisor


@dataclass(frozen=True)
class Log:
    """`store` holds labelled pictures, which `parent` has not learnt."""

    folder: Path
    store: Store
    spec: Input
    plan: Plan
    key: SigningKey
    labels: int

    @property
    def parent(self) -> Generation:
        return generation.load(self._parent, [self.key.verify_key], self.spec)

    @property
    def _parent(self) -> Path:
        return self.folder / "generations/000000"

    def order(self, name: str, **recipe: Any) -> Order:
        return Order(
            growth=1, cursor=self.labels, recipe=recipe, parent=str(self._parent),
            keys=[self.key.verify_key.encode().hex()], log=str(self.folder / "log.sqlite"),
            folder=str(self.folder / name), input=asdict(self.spec), plan=self.plan.describe(),
            threads=1,
        )


def labelled(folder: Path, pictures: Digits, plan: Plan, *, sources: int = 1) -> Log:
    """Digits that `sources` sources gave in turn, in a log of their own."""
    images, labels = pictures
    spec, key = Input("image", tuple(images.shape[1:])), SigningKey.generate()
    store = Store(folder / "log.sqlite")
    with store.transaction():
        for n, (image, label) in enumerate(zip(images, labels, strict=True)):
            store.record(Sample(f"d-{n}", f"t{n % sources}", 0.0, None, image))
            store.add_label(Label(f"d-{n}", str(label), "t"))
    trunk = stem_trunk(plan, spec, 0)
    (folder / "generations").mkdir()
    generation.write(folder / "stem", manifest=generation.base_manifest("node", spec),
                     trunk=trunk, readout=Readout(trunk.dim))
    generation.adopt(folder / "stem", folder / "generations", key)
    return Log(folder, store, spec, plan, key, len(labels))


def supervisor(limit: int = 2**30) -> Supervisor:
    return Supervisor(limit=limit, idle=60.0, wake=lambda: None)


def heard(learner: Supervisor, type_: str) -> dict[str, Any]:
    """The next message of this type; an error where the learner ends or fails before."""
    while True:
        message = taken(learner.messages, f"no {type_!r} from the learner")
        assert message is not None, f"the learner ended with {learner.ended()}"
        assert message["type"] != "failed", message
        if message["type"] == type_:
            return message
