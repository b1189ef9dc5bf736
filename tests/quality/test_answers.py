import math

import pytest

from tierserve.quality.answers import auroc, calibration_error, wilson


def test_wilson_is_known() -> None:
    low, high = wilson(81, 263)  # the example of Newcombe, 1998, to four digits
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_wilson_stays_inside_at_both_ends() -> None:
    assert wilson(0, 10)[0] == 0.0 and 0.2 < wilson(0, 10)[1] < 0.3
    assert wilson(10, 10)[1] == pytest.approx(1.0) and 0.7 < wilson(10, 10)[0] < 0.8
    assert wilson(0, 0) == (0.0, 1.0)


def test_auroc_counts_pairs() -> None:
    assert auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75
    assert auroc([1, 2, 3], [False, True, True]) == 1.0
    assert auroc([5, 5, 5, 5], [False, True, True, False]) == 0.5
    assert math.isnan(auroc([1, 2], [True, True]))


def test_calibration_error_is_the_gap() -> None:
    assert calibration_error([0.75] * 4, [True, True, True, False]) == 0.0
    assert calibration_error([1.0] * 4, [True, True, False, False]) == 0.5
    assert calibration_error([0.0, 1.0], [False, True]) == 0.0
    assert calibration_error([0.2, 0.2, 0.9, 0.9], [True, True, True, True]) == pytest.approx(0.45)
