import numpy as np
import pytest

from tierserve.lab.probe import GRID, confidences, isotonic
from tierserve.quality.answers import auroc, calibration_error


def test_isotonic_pools_what_is_out_of_order() -> None:
    fitted = isotonic(np.array([1.0, 2, 3, 4]), np.array([0.0, 1, 0, 1]))
    assert fitted == pytest.approx([0, 0.5, 0.5, 1])
    assert isotonic(np.array([3.0, 1, 2]), np.array([1.0, 0, 0])) == pytest.approx([1, 0, 0])


def test_confidences_find_what_can_be_known_and_mean_what_they_say() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3000, 5))
    chance = 1 / (1 + np.exp(-2.5 * features[:, 1]))
    right = (rng.random(3000) < chance).astype(float)
    stated = confidences(features, right)
    assert auroc(stated.tolist(), right.astype(bool).tolist()) > 0.8
    assert calibration_error(stated.tolist(), right.astype(bool).tolist()) < 0.03
    assert np.allclose(stated / GRID, np.round(stated / GRID))


def test_confidences_of_noise_tell_nothing() -> None:
    rng = np.random.default_rng(1)
    right = (rng.random(2000) < 0.7).astype(float)
    stated = confidences(rng.normal(size=(2000, 20)), right)
    assert stated.std() < 0.15
    assert stated.mean() == pytest.approx(0.7, abs=0.03)
