"""The papers' own names, one file a paper."""
