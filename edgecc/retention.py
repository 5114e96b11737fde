"""What the log keeps under `disk_budget`.

Unlabelled samples are a ring of a quarter of the budget, oldest out first. Labelled ones are a
class-balanced reservoir: the largest class gives up the sample with the highest id hash, so what
stays is a uniform draw of each class. Nothing leaves that no saved readout covers, and nothing
that a growth is training on.
"""

from edgecc.store import Store

UNLABELLED_SHARE = 0.25


def evict(store: Store, *, budget: int, learnt: int, pinned: int) -> int:
    """Delete what is over `budget` bytes, inside a transaction; returns how many rows went.

    learnt: newest label that a saved readout covers. pinned: newest label that an open growth
    trains on, 0 for none.
    """
    ring = int(budget * UNLABELLED_SHARE)
    gone = _evict_unlabelled(store, ring, learnt, pinned)
    return gone + _evict_labelled(store, budget - ring, learnt, pinned)


def over_budget(store: Store, budget: int) -> bool:
    return sum(size for _, size in store.usage().values()) > budget


def _evict_unlabelled(store: Store, ring: int, learnt: int, pinned: int) -> int:
    gone = 0
    while store.usage().get("", (0, 0))[1] > ring:
        row = store.oldest_unlabelled(after=pinned, upto=learnt)
        if row is None:  # labels taken back that a saved readout or a growth still knows
            return gone
        store.remove_sample(row)
        gone += 1
    return gone


def _evict_labelled(store: Store, budget: int, learnt: int, pinned: int) -> int:
    gone = 0
    while True:
        sizes = {label: size for label, (_, size) in store.usage().items() if label}
        if sum(sizes.values()) <= budget:
            return gone
        largest = max(sizes, key=lambda label: (sizes[label], label))
        row = store.last_by_hash(largest, after=pinned, upto=learnt)
        if row is None:
            return gone
        store.remove_sample(row)
        gone += 1
