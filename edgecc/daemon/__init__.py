"""The loop of `edgecc start` and its parts, one file each."""
