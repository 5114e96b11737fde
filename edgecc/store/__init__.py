"""The log: one SQLite file that is queue, journal and replay memory at once."""
