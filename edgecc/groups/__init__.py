"""Commands that come in groups, a module each; `edgecc/cli.py` is the index of them all."""
