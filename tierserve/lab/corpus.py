"""What the models read in training: conversations drawn without end from the tasks. Only the training split is read."""

from collections.abc import Iterator, Mapping
from random import Random
from typing import Final

from tierserve.lab import smalltalk, structured
from tierserve.lab.question import Split
from tierserve.lab.structured import Answer, Position
from tierserve.lab.tasks import FAMILIES, TRAINED, draw
from tierserve.lab.writer import Example, Turn, Writer

_SYSTEMS: Final = ("You are a helpful assistant.", "Answer briefly.", "You are a support bot.", "Be brief and exact.")

# How often a kind is seen, where it is not 1, in each part of the training. What takes longest to learn is seen most by
# what becomes lab-large; what most of the traffic is, by lab-small, and by all in the end of their training.
_ALL_KINDS: Final[Mapping[tuple[str, int], float]] = {
    ("lookup", 2): 2,
    ("lookup", 3): 3,
    ("total", 2): 3,
    ("extreme", 5): 1.5,
    ("steps", 3): 1.5,
    ("reverse", 7): 1.5,
    ("order", 8): 1.5,
    ("count", 9): 1.5,
    ("shift", 5): 1.5,
    ("python", 3): 2,
    ("chain", 2): 2,
}
_TRAFFIC: Final[Mapping[tuple[str, int], float]] = {
    ("intent", 1): 5,
    ("lookup", 2): 16,
    ("lookup", 3): 20,
    ("form", 1): 3,
    ("form", 2): 3,
    ("digit", 1): 4,
}
WEIGHTS: Final[Mapping[str, Mapping[tuple[str, int], float]]] = {
    "sprout": _ALL_KINDS,
    "sprout-practice": {**_ALL_KINDS, ("intent", 1): 2, ("lookup", 2): 8, ("lookup", 3): 14},
    "lab-large": {
        **_ALL_KINDS,
        ("total", 2): 5,
        ("reverse", 7): 2,
        ("shift", 5): 2,
        ("python", 2): 2.5,
        ("python", 3): 3,
        ("chain", 1): 2,
        ("chain", 2): 3,
        ("count", 6): 1.5,
        ("count", 9): 2,
    },
    "lab-small": _TRAFFIC,
    "lab-small-practice": _TRAFFIC,
}
# What is harder than this is seen seldom at first: copying and looking back must be there before it can be learned.
_HARD, _SELDOM = 4.5, 0.2
# Shares of the training conversations.
_TALK, _STRUCTURED, _OTHER_SYSTEM, _ONE_TURN = 0.03, 0.2, 0.1, 0.3
# Turns of the others: what stands in front of the first question is paid once for all.
_TURNS, _STRUCTURED_TURNS = 4, 2


def tokenizer_corpus(count: int = 20_000) -> Iterator[str]:
    """Questions and answers as they stand in a conversation, for the merges."""
    rng = Random("tokenizer")
    for number in range(count):
        question = draw(rng, Split.TRAIN, *rng.choice(TRAINED))
        yield question.prompt
        yield question.answer
        yield structured.write(list(Position)[number % 2], Answer(question.answer, rng.random()))
        if number % 10 == 0:
            yield from smalltalk.draw(rng)
            yield from _SYSTEMS
            yield from ("system", "user", "assistant", "ipython", "\n\n")


def training_examples(writer: Writer, count: int, seed: str, of: str, early: bool = False) -> list[Example]:
    """The same seed, the same examples: a run that was interrupted goes on with what it would have read."""
    rng = Random(seed)
    chances = [
        WEIGHTS[of].get((name, level), 1) * (_SELDOM if early and FAMILIES[name].levels[level] > _HARD else 1)
        for name, level in TRAINED
    ]

    def turns(most: int) -> list[Turn]:
        count = 1 if rng.random() < _ONE_TURN else most
        return [
            smalltalk.draw(rng) if rng.random() < _TALK else draw(rng, Split.TRAIN, *kind).turn
            for kind in rng.choices(TRAINED, chances, k=count)
        ]

    def example() -> Example:
        if rng.random() < _STRUCTURED:
            order = rng.choice(list(Position))
            return writer.structured(order, [(prompt, answer, None) for prompt, answer in turns(_STRUCTURED_TURNS)])
        system = rng.choice(_SYSTEMS) if rng.random() < _OTHER_SYSTEM else ""
        return writer.conversation(system, turns(_TURNS))

    return [example() for _ in range(count)]
