"""What the operator wrote: the tree of keys, loading, coercion, units, reload."""
