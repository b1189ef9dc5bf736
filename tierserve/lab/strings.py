"""The families of strings: reversal, sorting, counting, shifting, short programs; and chains of who reports to whom.

Codes are capital letters: the tokenizer gives each a token of its own, so a model can see what it is asked about.
"""

from random import Random
from string import ascii_uppercase
from typing import Final

from tierserve.lab.question import Draft
from tierserve.lab.support import NAMES

_ASK_REVERSE: Final = (
    "Reverse the code {x}.",
    "Write {x} backwards.",
    "What is {x} in reverse?",
    "Spell {x} from the end.",
)
_ASK_SORT: Final = ("Sort the letters of {x}.", "Put the letters {x} in alphabetical order.", "Order {x} from A to Z.")
_ASK_COUNT: Final = ("How many {c} are in {x}?", "Count the letter {c} in {x}.", "How often does {c} occur in {x}?")
_ASK_SHIFT: Final = (
    "Move each letter of {x} on by {k}.",
    "Shift {x} by {k} in the alphabet.",
    "Encode {x} with a Caesar shift of {k}.",
)
_ASK_CODE: Final = (
    'What does this print? s = "{x}"; {p}',
    's = "{x}"; {p} What is the output?',
    'Output of this Python code: s = "{x}"; {p}',
    'Run this: s = "{x}"; {p}',
)
_ASK_CHAIN: Final = ("{f} Who is {h} of {n}?", "Team: {f} Name {h} of {n}.", "{f} {n} asks: who is {h} of mine?")


def _code(rng: Random, length: int, alphabet: str = ascii_uppercase) -> str:
    return "".join(rng.choice(alphabet) for _ in range(length))


def reverse(rng: Random, level: int) -> Draft:
    code = _code(rng, level)
    return Draft(code, rng.choice(_ASK_REVERSE).format(x=code), code[::-1])


def order(rng: Random, level: int) -> Draft:
    code = _code(rng, level)
    return Draft(code, rng.choice(_ASK_SORT).format(x=code), "".join(sorted(code)))


def count(rng: Random, level: int) -> Draft:
    """Few different letters, so that the one asked for occurs several times."""
    alphabet = "".join(rng.sample(ascii_uppercase, 3))
    code, letter = _code(rng, level, alphabet), rng.choice(alphabet)
    return Draft(f"{letter} {code}", rng.choice(_ASK_COUNT).format(c=letter, x=code), str(code.count(letter)))


def shift(rng: Random, level: int) -> Draft:
    code, by = _code(rng, level), rng.randint(1, 3)
    shifted = "".join(ascii_uppercase[(ascii_uppercase.index(letter) + by) % 26] for letter in code)
    return Draft(f"{code} {by}", rng.choice(_ASK_SHIFT).format(x=code, k=by), shifted)


def python(rng: Random, level: int) -> Draft:
    """Level 1 indexes, level 2 slices, level 3 puts two of those together, level 4 changes the string first."""
    code = _code(rng, rng.randint(4, 6))
    value, before = code, ""
    if level == 4:
        value, before = code[::-1], "s = s[::-1]; "
    expressions = [
        _expression(rng, value, 1 + (level != 1 and rng.random() < 0.5)) for _ in range(2 if level >= 3 else 1)
    ]
    program = before + "print(" + " + ".join(source for source, _ in expressions) + ")"
    return Draft(
        f"{code} {program}", rng.choice(_ASK_CODE).format(x=code, p=program), "".join(out for _, out in expressions)
    )


def _expression(rng: Random, value: str, level: int) -> tuple[str, str]:
    at = rng.randrange(4)
    if level == 1:
        return rng.choice(((f"s[{at}]", value[at]), ("s[-1]", value[-1]), (f"s[{at}] * 2", value[at] * 2)))
    return rng.choice((("s[::-1]", value[::-1]), (f"s[{at}:]", value[at:]), (f"s[:{at + 1}]", value[: at + 1])))


def chain(rng: Random, level: int) -> Draft:
    """Follow `level` links among `level` + 1 of them, told in any order."""
    people = rng.sample(NAMES, level + 2)
    links = [f"{a} reports to {b}." for a, b in zip(people, people[1:], strict=False)]
    rng.shuffle(links)
    told = " ".join(links)
    start = rng.randrange(len(people) - level)
    asked = "the boss" + " of the boss" * (level - 1)
    prompt = rng.choice(_ASK_CHAIN).format(f=told, h=asked, n=people[start])
    return Draft(f"{told} {level} {people[start]}", prompt, people[start + level])
