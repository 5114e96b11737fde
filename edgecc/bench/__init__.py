"""Every figure in the README: each bench prints a table and, with --json, the figures."""
