"""The lab's tasks: which families there are, how hard each level is, and the mix of traffic drawn from them.

    mix(Split.HELD_OUT, 1000, seed=1)      # the article's traffic: 64 % simple, the rest up to hard
    draw(rng, Split.TRAIN, "reverse", 5)   # one question

The same seed draws the same questions. Splits can't overlap, whatever the seeds: see question.split_of.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final, NamedTuple

from tierserve.lab import arithmetic, strings, support
from tierserve.lab.question import Draft, Question, Split, split_of


class Family(NamedTuple):
    make: Callable[[Random, int], Draft]
    levels: Mapping[int, float]  # level -> difficulty, 0..10


FAMILIES: Final[Mapping[str, Family]] = {
    "intent": Family(support.intent, {1: 0.5}),
    "lookup": Family(support.lookup, {1: 0.5, 2: 2, 3: 3}),
    "form": Family(support.form, {1: 1, 2: 1.5}),
    "digit": Family(arithmetic.digit, {1: 1}),
    "extreme": Family(arithmetic.extreme, {3: 3, 5: 5}),
    "total": Family(arithmetic.total, {2: 5}),
    "steps": Family(arithmetic.steps, {2: 4, 3: 5}),
    "reverse": Family(strings.reverse, {3: 3, 5: 5, 7: 7}),
    "order": Family(strings.order, {4: 4, 6: 6, 8: 8}),
    "count": Family(strings.count, {6: 4, 9: 6}),
    "shift": Family(strings.shift, {3: 5, 5: 7}),
    "python": Family(strings.python, {1: 3, 2: 5, 3: 7}),
    "chain": Family(strings.chain, {1: 3, 2: 6}),
}
# One-digit sums have few prompts: another of the same kind is tried for, so that the shares hold.
_TRIES: Final = 100
SIMPLE: Final = (("intent", 1), ("lookup", 1))
KINDS: Final = tuple((name, level) for name, family in FAMILIES.items() for level in family.levels)
# Level 1 of the look-ups is the easier part of levels 2 and 3, and is learned with them.
TRAINED: Final = tuple(kind for kind in KINDS if kind != ("lookup", 1))

# Shares of the article's traffic, in percent: 64 simple, the rest up to what neither model can do. Chosen by what both
# got right on the calibration split.
MIX: Final[Mapping[tuple[str, int], float]] = {
    ("intent", 1): 34,
    ("lookup", 1): 30,
    ("form", 1): 2,
    ("form", 2): 2,
    ("digit", 1): 3,
    ("lookup", 2): 1,
    ("extreme", 3): 2,
    ("extreme", 5): 2,
    ("steps", 2): 3,
    ("steps", 3): 3,
    ("reverse", 3): 2,
    ("reverse", 5): 2,
    ("reverse", 7): 1,
    ("order", 4): 2,
    ("order", 6): 1,
    ("order", 8): 1,
    ("shift", 3): 4,
    ("shift", 5): 1,
    ("count", 6): 1,
    ("total", 2): 1,
    ("python", 2): 1,
    ("chain", 2): 1,
}


def draw(rng: Random, split: Split, family: str, level: int) -> Question:
    """A question of that split: drafts are made until one belongs to it."""
    make, levels = FAMILIES[family]
    while True:
        draft = make(rng, level)
        if split_of(family, draft.content) is split:
            return Question(family, level, levels[level], split, *draft)


def mix(split: Split, count: int, seed: int, shares: Mapping[tuple[str, int], float] = MIX) -> list[Question]:
    """`count` different questions in these shares."""
    rng = Random(f"{seed} {split}")
    kinds: Sequence[tuple[str, int]] = list(shares)
    weights = [shares[kind] for kind in kinds]
    questions: dict[str, Question] = {}
    while len(questions) < count:
        family, level = rng.choices(kinds, weights)[0]
        for _ in range(_TRIES):
            question = draw(rng, split, family, level)
            if question.prompt not in questions:
                questions[question.prompt] = question
                break
    return list(questions.values())
