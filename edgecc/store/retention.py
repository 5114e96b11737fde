"""What the log keeps under `disk_budget`.

Unlabelled samples are a ring of a quarter of the budget, oldest out first. Labelled ones are a
class-balanced reservoir: the largest class gives up the sample with the highest id hash, so what
stays is a uniform draw of each class. Nothing leaves that no saved readout covers.
"""

from bisect import insort

from edgecc.store.writer import Store

UNLABELLED_SHARE = 0.25


def evict(store: Store, *, budget: int, learnt: int, limit: int) -> int:
    """Delete up to `limit` rows of what is over `budget` bytes, in a transaction; how many.

    learnt: newest label that every readout in use knows and a saved one covers.
    """
    ring = int(budget * UNLABELLED_SHARE)
    gone = _evict_unlabelled(store, ring, learnt, limit)
    return gone + _evict_labelled(store, budget - ring, learnt, limit - gone)


def over_budget(store: Store, budget: int) -> bool:
    unlabelled, labelled = _sizes(store)
    ring = int(budget * UNLABELLED_SHARE)
    return unlabelled > ring or sum(labelled.values()) > budget - ring


def _sizes(store: Store) -> tuple[int, dict[str, int]]:
    """Bytes of the unlabelled samples, and of each class."""
    sizes = {label: size for label, (_, size) in store.usage().items()}
    return sizes.pop("", 0), sizes


def _evict_unlabelled(store: Store, ring: int, learnt: int, limit: int) -> int:
    gone = 0
    while gone < limit and store.bytes_of("") > ring:
        row = store.oldest_unlabelled(upto=learnt)
        if row is None:  # labels taken back that no saved readout knows of yet
            return gone
        store.remove_sample(row)
        gone += 1
    return gone


def _evict_labelled(store: Store, budget: int, learnt: int, limit: int) -> int:
    """Classes are kept in order of size: there may be thousands."""
    order = sorted((size, label) for label, size in _sizes(store)[1].items())
    gone, total = 0, sum(size for size, _ in order)
    while gone < limit and total > budget and order:
        size, label = order.pop()
        row = store.last_by_hash(label, upto=learnt)
        if row is None:  # nothing of this class may leave
            continue
        store.remove_sample(row)
        left = store.bytes_of(label)
        insort(order, (left, label))
        gone, total = gone + 1, total - size + left
    return gone
