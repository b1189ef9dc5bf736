from tierserve.quality.shadow.budget import HourBudget


def test_no_hour_sees_more_than_its_number() -> None:
    budget = HourBudget(2)
    assert [budget.spend(now) for now in (0.0, 1800.0, 3599.0)] == [True, True, False]
    assert [budget.spend(now) for now in (3600.0, 3601.0, 5400.0)] == [True, False, True]
    budget.renew(3)
    assert budget.is_left(5401.0) and budget.spend(5401.0) and not budget.is_left(5401.0)
