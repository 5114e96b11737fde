"""How long to wait before the next try to connect: full jitter under a ceiling that doubles."""

from dataclasses import dataclass, field
from random import Random

FIRST, LAST = 1.0, 120.0  # seconds: the first ceiling, and the highest
STABLE = 60.0  # seconds connected after which the ceiling is the first again


@dataclass
class Backoff:
    _ceiling: float = FIRST
    _draws: Random = field(default_factory=Random)  # its own: it draws in the network's thread

    def after(self, connected: float) -> float:
        """Seconds to wait, after a connection that held for `connected` seconds; 0 for none."""
        ceiling = FIRST if connected >= STABLE else self._ceiling
        self._ceiling = min(2 * ceiling, LAST)
        return self._draws.uniform(0, ceiling)
