"""Windows and grids are planned as n x n, for pictures; on a map of one row they are n² long."""

Size = tuple[int, int]  # rows and columns of a map


def fitted(n: int, size: Size) -> Size:
    """n x n at most, or n² in a row."""
    rows, columns = size
    return (1, min(n * n, columns)) if rows == 1 else (min(n, rows), min(n, columns))


def odd(n: int, size: Size) -> Size:
    """The same of sizes that have a middle, for an odd n."""
    rows, columns = (side - 1 + side % 2 for side in size)
    return fitted(n, (rows, columns))


def stem_pool(size: Size) -> Size:
    """Leaves maps of 14 x 14 to 16 x 16, or rows of 225 at most, whatever the input."""
    rows, columns = size
    if rows == 1:
        return 1, -(-columns // 225)
    return max(1, round(rows / 15)), max(1, round(columns / 15))
