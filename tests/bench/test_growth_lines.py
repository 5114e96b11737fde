"""What the demo and the benches print of a growth: one line."""

from typing import Any

from edgecc.bench.delivery.node import outcome


def verdict(block: int, held_out: float, without: float, **more: Any) -> dict[str, Any]:
    return {"growth": 4, "block": block, "held_out": held_out, "held_out_without": without,
            "held_out_serving": 0.9309, "helps": True, "accepted": False} | more


def test_a_growth_that_is_not_better_keeps_what_serves() -> None:
    blocks = [verdict(1, 0.9271, 0.9), verdict(2, 0.9280, 0.9271), verdict(3, 0.929, 0.928)]
    assert outcome(blocks) == "growth 4: 3 blocks 0.9290, serving 0.9309: kept what serves"


def test_only_the_blocks_that_help_count_and_an_accepted_growth_serves() -> None:
    blocks = [verdict(1, 0.95, 0.9, accepted=True), verdict(2, 0.94, 0.95, helps=False)]
    assert outcome(blocks) == "growth 4: 1 block 0.9500, serving 0.9309: serves now"


def test_where_no_block_helps_the_stem_is_what_was_compared() -> None:
    blocks = [verdict(1, 0.91, 0.92, helps=False), verdict(2, 0.9, 0.91, helps=False)]
    assert outcome(blocks) == "growth 4: 0 blocks 0.9200, serving 0.9309: kept what serves"
