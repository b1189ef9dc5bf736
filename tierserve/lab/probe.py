"""From a model's own right and wrong answers to the confidence that it should state. numpy alone; trains no model.

A logistic probe on what the model had in mind (its hidden state) and on the kind of question; each probability comes
from a probe that did not see that answer, and is then made to mean what it says by isotonic regression.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FOLDS = 5
_STEPS = 60
_RIDGE = 3.0
GRID = 0.05  # confidences are stated in steps of this: finer ones carry nothing that can be learned from thousands


def confidences(features: Array, right: Array, seed: int = 0) -> Array:
    """For each answer the chance that it is right, on the grid."""
    scaled = (features - features.mean(0)) / (features.std(0) + 1e-6)
    fold = np.random.default_rng(seed).integers(_FOLDS, size=len(right))
    raw = np.empty(len(right))
    for number in range(_FOLDS):
        kept = fold == number
        raw[kept] = _scores(scaled[kept], _logistic(scaled[~kept], right[~kept]))
    return np.clip(np.round(isotonic(raw, right) / GRID) * GRID, 0.0, 1.0)


def isotonic(scores: Array, right: Array) -> Array:
    """The non-decreasing function of the scores that is nearest to the outcomes (pool adjacent violators)."""
    order = np.argsort(scores, kind="stable")
    means: list[float] = []
    sizes: list[int] = []
    for value in right[order]:
        means.append(float(value))
        sizes.append(1)
        while len(means) > 1 and means[-2] >= means[-1]:
            size = sizes[-2] + sizes[-1]
            means[-2:] = [(means[-2] * sizes[-2] + means[-1] * sizes[-1]) / size]
            sizes[-2:] = [size]
    fitted = np.empty(len(right))
    fitted[order] = np.repeat(means, sizes)
    return fitted


def _logistic(features: Array, right: Array) -> Array:
    """Ridge-penalised logistic regression by Newton's method; the last weight is the intercept."""
    design = np.column_stack([features, np.ones(len(features))])
    weights = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (chance - right) + _RIDGE * weights
        curve = (design * (chance * (1 - chance))[:, None]).T @ design + _RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curve, slope)
        weights = weights - step
        if np.abs(step).max() < 1e-6:
            break
    return weights


def _scores(features: Array, weights: Array) -> Array:
    scores: Array = features @ weights[:-1] + weights[-1]
    return scores
