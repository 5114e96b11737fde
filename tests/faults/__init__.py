"""The fault suite: real processes, killed, cut off, filled up and misled, and then looked at.

    make faults          all of it, in its full size; prints a table, writes faults/figures.json
    make test            a cut of it: the same code, fewer kills and fewer messages

Each `test_*.py` is one kind of trouble. In all of them daemon, learner, broker and producer are
the real programs, and the same questions are asked afterwards (`checker.py`): what was sent
contains what was receipted, and that is stored; labels and predictions are there exactly once;
every generation opens, is signed, and names a parent that is there.

| file | concern |
|---|---|
| `hook/sitecustomize.py` | crash points: named places in the code where a process kills itself |
| `trouble.py` | arms crash points, starts what was killed, times recovery |
| `checker.py` | reads ids: lost, duplicated, broken |
| `proxy.py` | a TCP connection that may fail |
| `disk.c` | a disk that fails: preloaded, its fsync and writes return errors when told to |
| `tally.py` | counts over the whole run: the table and the figures |

A new crash point is one line in the hook's table; every kill test then uses it.
"""
