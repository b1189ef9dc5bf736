"""What lab-assessor learns to say: a rating of router/assessing/prompt.py's scale. Pure: it loads no model."""

from tierserve.router.assessing.prompt import RATINGS


def soft_rating(score: float, chance: float) -> int:
    """One of the two numbers around `score`, such that over chances in 0..1 the mean is the score."""
    whole = int(score)
    return min(whole + (chance < score - whole), RATINGS[-1])
