"""Every figure in docs/figures.md: each bench prints a table and, with --json, the figures."""
