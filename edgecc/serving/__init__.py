"""Which generation answers, and how its readout follows the log."""
