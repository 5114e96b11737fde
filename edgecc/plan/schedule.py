"""When the trunk grows: at labels fixed by the recipe, and once in between if drift was detected.

Both depend on the log, never on the clock.
"""

from edgecc.config.schema import Config
from edgecc.store.growth_log import Growth
from edgecc.store.writer import Store


def open_growth(store: Store, config: Config, seq: int) -> None:
    """Open growth 2r-1 if label `seq` is number first·2^(r-1)."""
    ratio, rest = divmod(seq, config.grow.first)
    if rest == 0 and ratio & (ratio - 1) == 0:
        _open(store, config, 2 * ratio.bit_length() - 1, seq)


def open_drift_growth(store: Store, config: Config, seq: int) -> int | None:
    """Open growth 2r, at most one between 2r-1 and 2r+1; its number, or None if none was opened.

    None is opened in the first quarter of that span: the newest growth has seen nearly as much.
    """
    ratio = seq // config.grow.first
    newest = config.grow.first << max(ratio.bit_length() - 1, 0)
    number = 2 * ratio.bit_length()
    if ratio == 0 or seq < newest * 1.25 or store.growths.cursor(number):
        return None
    return _open(store, config, number, seq)


def _open(store: Store, config: Config, number: int, seq: int) -> int | None:
    grow = config.grow
    if not grow.blocks:
        return None
    recipe = {"epochs": grow.epochs, "seed": config.seed, "method": grow.method,
              "mirror": grow.mirror}
    store.growths.open(Growth(number, seq, recipe))
    return number
