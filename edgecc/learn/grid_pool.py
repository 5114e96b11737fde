"""Average-pools maps of any size to a grid, as scores and readouts see them."""

from edgecc.learn.backends import Array, of
from edgecc.learn.geometry import pool_window


class GridPool:
    """Maps (B, C, H, W) to (B, C·gh·gw), with gh, gw = grid at most; and gradients back."""

    def __init__(self, size: tuple[int, int], grid: int) -> None:
        height, width = size
        self._grid = min(height, grid), min(width, grid)
        self.cells = self._grid[0] * self._grid[1]
        (down, y), (across, x) = map(pool_window, size, self._grid)
        self._kernel, self._stride = (down, across), (y, x)

    def forward(self, a: Array) -> Array:
        return of(a).avg_pool(a, self._kernel, self._stride).reshape(len(a), -1)

    def backward(self, dp: Array, a: Array) -> Array:
        """∂L/∂a of a gradient of the flat pooled map."""
        dp = dp.reshape(*a.shape[:2], *self._grid)
        return of(a).avg_pool_back(dp, a, self._kernel, self._stride)
