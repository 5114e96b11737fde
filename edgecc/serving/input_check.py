"""A log holds samples of one kind and shape; while it holds none, another may be chosen."""

import json
import shutil

from edgecc.checkpoint import generation
from edgecc.config.schema import Config
from edgecc.errors import ConfigError
from edgecc.store import meta
from edgecc.store.writer import Store


def check_input(config: Config, store: Store) -> None:
    wanted = json.dumps([config.input.kind, config.input.shape])
    known = store.meta(meta.INPUT)
    if known == wanted:
        return
    if known is not None and store.last_row():
        raise ConfigError(
            f"input.kind and input.shape are {wanted}, the log in {config.state} holds "
            f"{known}: change them back, or give this node a new state_dir"
        )
    with store.transaction():
        if known is not None:
            _begin_anew(config, store)
        store.set_meta(meta.INPUT, wanted)


def _begin_anew(config: Config, store: Store) -> None:
    """Nothing was stored under another input: what there is of it is a bare stem."""
    folder = config.state.generations
    numbers = generation.numbers(folder) if folder.exists() else []
    for number in numbers:
        shutil.rmtree(folder / generation.name_of(number))
        store.put_outbox(config.topics.manifest(number), b"", retain=True)
    through = max([store.meta(meta.REMOVED_THROUGH), *numbers])
    store.set_meta(meta.REMOVED_THROUGH, through)
    for key in (meta.SERVING, meta.SUCCESSOR):
        store.set_meta(key, None)
