"""A log holds samples of one kind and shape; while it holds none, another input may be chosen."""

import json

from edgecc.config.schema import Config
from edgecc.errors import ConfigError
from edgecc.serving.generations import Generations
from edgecc.store import meta
from edgecc.store.writer import Store


def check_input(config: Config, store: Store, generations: Generations) -> None:
    """ConfigError if samples of another kind or shape than configured are stored."""
    wanted = json.dumps([config.input.kind, config.input.shape])
    known = store.meta(meta.INPUT)
    if known == wanted:
        return
    if known is not None and store.last_row():
        raise ConfigError(
            f"input.kind and input.shape are {wanted}, the log in {config.state} holds "
            f"{known}: change them back, or give this node a new state_dir"
        )
    stems = generations.numbers()  # bare ones, of the other input: nothing was stored
    generations.remove(stems)
    with store.transaction():
        for number in stems:
            store.put_outbox(config.topics.manifest(number), b"", retain=True)
        generations.note_removed(stems)
        store.set_meta(meta.SERVING, None)
        store.set_meta(meta.SUCCESSOR, None)
        store.set_meta(meta.INPUT, wanted)
