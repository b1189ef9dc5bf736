"""Moves prompts that could go either way to the tier with room, while the other one has a queue."""

from dataclasses import dataclass

from tierserve.core import Load, Role


@dataclass(frozen=True, slots=True)
class Relief:
    """A tier is overloaded when more requests wait in it than its limit; None: never.

    `band` is how far from the threshold a score may lie for its prompt to be moved.
    """

    large_queue: int | None
    small_queue: int | None
    band: float = 1.0

    def role_for(self, role: Role, score: float, threshold: float, load: Load) -> Role:
        """The tier that a prompt should go to, instead of `role`, which its score says.

        Down, unless the small tier is overloaded as well; up, only while a request would start at once up there. Where
        one tier can't answer, none is relieved.
        """
        if abs(score - threshold) > self.band or load.small is None or load.large is None:
            return role
        small_overloaded = _exceeds(load.small.waiting, self.small_queue)
        if role is Role.LARGE:
            down = _exceeds(load.large.waiting, self.large_queue) and not small_overloaded
            return Role.SMALL if down else role
        return Role.LARGE if small_overloaded and load.large.has_room else role


def _exceeds(waiting: int, limit: int | None) -> bool:
    return limit is not None and waiting > limit
