"""Sizes of kernels, pools and grids: planned as n x n for pictures; on a row they are n² long."""

Size = tuple[int, int]  # rows and columns of a map


def fitted(n: int, size: Size) -> Size:
    """n x n, or n² in a row; never larger than the map."""
    rows, columns = size
    return (1, min(n * n, columns)) if rows == 1 else (min(n, rows), min(n, columns))


def odd(n: int, size: Size) -> Size:
    """The same, made odd, as kernels must be."""
    rows, columns = fitted(n, size)
    return rows - 1 + rows % 2, columns - 1 + columns % 2


def stem_pool(size: Size) -> Size:
    """Pools an input to a map of about 15 x 15, or to a row of 225 at most."""
    rows, columns = size
    if rows == 1:
        return 1, -(-columns // 225)
    return max(1, round(rows / 15)), max(1, round(columns / 15))


def pooled(size: Size, pool: Size) -> Size:
    """What a max-pool leaves of a map: windows side by side, the rest left out."""
    return size[0] // pool[0], size[1] // pool[1]


def pool_window(size: int, grid: int) -> tuple[int, int]:
    """The (kernel, stride) that pools `size` values to `grid` values and leaves none out.

    Equals adaptive pooling when grid divides size; otherwise neighbouring windows overlap.
    ValueError unless 1 <= grid <= size.
    """
    if not 1 <= grid <= size:
        raise ValueError(f"cannot pool {size} values to a grid of {grid}: 1 <= grid <= size")
    stride = size // grid
    return size - (grid - 1) * stride, stride
