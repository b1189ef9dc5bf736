"""Both tiers together: started side by side or one by one, and never one left running without the other."""

import asyncio

import pytest

from tierserve.core import Role
from tierserve.errors import ConfigError, TierStartError
from tierserve.tiers.base import TierState
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier


class SlowTier(ScriptedTier):
    """Starts when it is let, and keeps a diary with the other one."""

    def __init__(self, name: str, diary: list[str], error: Exception | None = None) -> None:
        super().__init__(name)
        self.diary, self.error = diary, error

    async def start(self) -> None:
        self.diary.append(f"{self.name} starts")
        await asyncio.sleep(0.01)
        if self.error is not None:
            raise self.error
        await super().start()
        self.diary.append(f"{self.name} is up")

    async def stop(self) -> None:
        await super().stop()
        self.diary.append(f"{self.name} ends")


async def test_on_devices_of_their_own_they_start_side_by_side() -> None:
    diary: list[str] = []
    pair = TierPair(SlowTier("s", diary), SlowTier("l", diary))
    await pair.start()
    assert diary[:2] == ["s starts", "l starts"]
    assert pair.ready


async def test_on_a_shared_device_they_start_one_by_one() -> None:
    diary: list[str] = []
    pair = TierPair(SlowTier("s", diary), SlowTier("l", diary), one_by_one=True)
    await pair.start()
    assert diary == ["s starts", "s is up", "l starts", "l is up"]


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("failing", Role)
async def test_one_that_fails_takes_the_other_down_and_its_reason_is_the_one_raised(
    failing: Role, one_by_one: bool
) -> None:
    diary: list[str] = []
    error = TierStartError("no memory")
    tiers = {role: SlowTier(role, diary, error if role is failing else None) for role in Role}
    pair = TierPair(tiers[Role.SMALL], tiers[Role.LARGE], one_by_one)
    with pytest.raises(TierStartError, match="no memory"):
        await pair.start()
    assert not pair.ready
    assert all(tier.state is TierState.STOPPED for tier in pair)
    assert {"small ends", "large ends"} <= set(diary)


async def test_a_start_that_is_cancelled_stops_both() -> None:
    diary: list[str] = []
    pair = TierPair(SlowTier("s", diary), SlowTier("l", diary))
    starting = asyncio.create_task(pair.start())
    await asyncio.sleep(0.001)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert {"s ends", "l ends"} <= set(diary)


async def test_missing_weights_of_either_are_found_before_any_starts() -> None:
    class Missing(ScriptedTier):
        async def find_weights(self) -> None:
            raise ConfigError("tiers.large.engine.model", "missing")

    with pytest.raises(ConfigError):
        await TierPair(ScriptedTier("s"), Missing("l")).find_weights()


def test_a_tier_goes_by_its_name_and_by_its_role() -> None:
    pair = TierPair(ScriptedTier("llama-8b"), ScriptedTier("llama-70b"))
    assert pair.role_of("llama-8b") is pair.role_of("small") is Role.SMALL
    assert pair.role_of("llama-70b") is pair.role_of("large") is Role.LARGE
    assert pair.role_of("auto") is None
