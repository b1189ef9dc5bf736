"""The families of numbers: one-digit sums, long addition and subtraction, several steps, the largest of a list."""

from random import Random
from typing import Final

from tierserve.lab.question import Draft

_ADD: Final = (
    "What is {a} + {b}?",
    "Add {a} and {b}.",
    "{a} + {b} =",
    "Compute the sum of {a} and {b}.",
    "How much is {a} plus {b}?",
)
_SUBTRACT: Final = (
    "What is {a} - {b}?",
    "Subtract {b} from {a}.",
    "{a} - {b} =",
    "How much is {a} minus {b}?",
    "Take {b} away from {a}.",
)
_STORY: Final = (
    "There are {a} lamps and {b} more arrive. How many lamps?",
    "I have {a} orders and get {b} more. How many is that?",
    "{a} chairs and {b} tables: how many things?",
)
_ASK_STEPS: Final = (
    "Start with {s}. What comes out at the end?",
    "Take {s}. Show each result.",
    "Work this out step by step: {s}.",
    "Begin at {s}. What do you get?",
)
_ASK_EXTREME: Final = (
    ("Which is the largest: {x}?", "largest"),
    ("What is the largest of {x}?", "largest"),
    ("Find the largest number: {x}", "largest"),
    ("Which is the smallest: {x}?", "smallest"),
    ("What is the smallest of {x}?", "smallest"),
    ("Find the smallest number: {x}", "smallest"),
)


def digit(rng: Random, level: int) -> Draft:
    """One-digit sums and differences. There are so few that the wording counts as content."""
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    if rng.random() < 0.4:
        a, b = max(a, b), min(a, b)
        prompt, answer = rng.choice(_SUBTRACT), a - b
    else:
        prompt, answer = rng.choice((*_ADD, *_STORY)), a + b
    prompt = prompt.format(a=a, b=b)
    return Draft(prompt, prompt, str(answer))


def total(rng: Random, level: int) -> Draft:
    """Addition and subtraction of two numbers of `level` digits."""
    a, b = (rng.randint(10 ** (level - 1), 10**level - 1) for _ in range(2))
    if rng.random() < 0.5:
        return Draft(f"add {min(a, b)} {max(a, b)}", rng.choice(_ADD).format(a=a, b=b), str(a + b))
    a, b = max(a, b), min(a, b)
    return Draft(f"subtract {a} {b}", rng.choice(_SUBTRACT).format(a=a, b=b), str(a - b))


def steps(rng: Random, level: int) -> Draft:
    """`level` operations one after the other; the answer shows each result."""
    value = rng.randint(2, 9)
    text, results = str(value), []
    for _ in range(level):
        operation = rng.choice(("add", "subtract", "double", "add"))
        if operation == "double" and value < 50:
            value, text = value * 2, f"{text}, double it"
        elif operation == "subtract" and value >= 10:
            by = rng.randint(1, 9)
            value, text = value - by, f"{text}, subtract {by}"
        else:
            by = rng.randint(1, 9)
            value, text = value + by, f"{text}, add {by}"
        results.append(str(value))
    return Draft(text, rng.choice(_ASK_STEPS).format(s=text), ", ".join(results))


def extreme(rng: Random, level: int) -> Draft:
    """The largest or smallest of `level` two-digit numbers."""
    numbers = rng.sample(range(10, 100), level)
    prompt, which = rng.choice(_ASK_EXTREME)
    listed = ", ".join(map(str, numbers))
    answer = max(numbers) if which == "largest" else min(numbers)
    return Draft(f"{which} {listed}", prompt.format(x=listed), str(answer))
