"""What tiering can be worth at best. Pure, and imports nothing."""


def cost_ratio(small_per_s: float, large_per_s: float) -> float:
    """r: what the small model costs for the same traffic, as a part of what the large one does."""
    return large_per_s / small_per_s


def limit(large_share: float, r: float) -> float:
    """So many times all large's rate is possible where deciding costs nothing and nothing is asked twice."""
    return 1 / (large_share + (1 - large_share) * r)
