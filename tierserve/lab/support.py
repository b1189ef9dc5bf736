"""The simple families: intents of support messages, look-ups of a fact that stands in the prompt, short formatting."""

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from tierserve.lab.question import Draft

NAMES: Final = "Anna Ben Carla David Emma Felix Grace Henry Iris Jonas Karin Leo Maria Nils Olga Paul".split()
CITIES: Final = "Oslo Paris Rome Berlin Madrid Vienna Lisbon Dublin Prague Athens Geneva London".split()
COLOURS: Final = "red blue green black white yellow brown grey".split()
THINGS: Final = "lamp chair phone camera laptop printer jacket bottle table clock keyboard backpack".split()
DAYS: Final = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

# What customers write, by what they want. {t} thing, {c} colour, {d} day, {n} order number, {p} city.
_MESSAGES: Final[Mapping[str, Sequence[str]]] = {
    "refund": (
        "I want my money back for the {c} {t} from order {n}.",
        "Please refund order {n}, the {t} is not what I wanted.",
        "The {c} {t} broke on {d}. How do I get a refund?",
    ),
    "delivery": (
        "Where is my {t}? Order {n} was due on {d}.",
        "My {c} {t} has not arrived in {p} yet.",
        "When will order {n} be delivered to {p}?",
    ),
    "cancel": (
        "Please cancel order {n}, I do not need the {t} any more.",
        "I would like to cancel the {c} {t} that I ordered on {d}.",
        "Stop order {n} before it is sent to {p}.",
    ),
    "password": (
        "I forgot my password and can't log in since {d}.",
        "How can I reset the password of account {n}?",
        "The login page says my password is wrong, account {n}.",
    ),
    "billing": (
        "I was charged twice for the {c} {t} on {d}.",
        "The invoice for order {n} shows a wrong amount.",
        "Why is there a second payment for the {t} on my card?",
    ),
    "address": (
        "I am moving to {p} on {d}, please change my address.",
        "Send order {n} to my new address in {p} instead.",
        "My street changed, can you update the address of account {n}?",
    ),
    "praise": (
        "Thank you, the {c} {t} is great!",
        "Order {n} came early and I love the {t}.",
        "Your team in {p} was very kind on {d}, thanks.",
    ),
    "stock": (
        "Do you have the {t} in {c}?",
        "When is the {c} {t} available again in {p}?",
        "Is the {t} in stock before {d}?",
    ),
}
INTENTS: Final = tuple(_MESSAGES)
_OPENINGS: Final = ("", "", "Hello, ", "Hi! ", "Good morning. ", "Hey, ")
_ASK_INTENT: Final = (
    "What is the intent of this message? {m}",
    "Classify this support message: {m}",
    "Which intent does the customer have? {m}",
    "Name the intent. {m}",
    "{m} What does the customer want?",
)

# A kind of fact: how it is stated, how it is asked, what it can be.
_FACTS: Final[Sequence[tuple[str, str, Sequence[str]]]] = (
    ("The {t} is {v}.", "What colour is the {t}?", COLOURS),
    ("The {t} ships to {v}.", "Where does the {t} ship to?", CITIES),
    ("The {t} belongs to {v}.", "Who owns the {t}?", NAMES),
    ("The {t} arrives on {v}.", "When does the {t} arrive?", DAYS),
)
_ASK_FACT: Final = ("{f} {q}", "{q} {f}", "Facts: {f} Question: {q}", "Use these notes. {f} {q}", "Context: {f} {q}")

_ASK_JSON: Final = (
    "Format as JSON: {k} {v}, {l} {w}",
    "Write this as JSON: {k} = {v}, {l} = {w}",
    "Turn into a JSON object: {k}: {v}; {l}: {w}",
    "Make JSON from {k} {v} and {l} {w}.",
)
_ASK_COPY: Final = ("Repeat this: {x}", "Copy this text: {x}", "Say exactly: {x}", "Echo: {x}")


def intent(rng: Random, level: int) -> Draft:
    label = rng.choice(INTENTS)
    message = rng.choice(_MESSAGES[label]).format(
        t=rng.choice(THINGS), c=rng.choice(COLOURS), d=rng.choice(DAYS), n=rng.randint(1000, 9999), p=rng.choice(CITIES)
    )
    opening = rng.choice(_OPENINGS)
    return Draft(message, rng.choice(_ASK_INTENT).format(m=opening + message), label)


def lookup(rng: Random, level: int) -> Draft:
    """Facts, each of another thing, one of them asked for. At level 1 each fact is of another kind too; at levels 2 and
    3 that many of any kind, so that it can take the thing to tell them apart."""
    facts = []
    of_kinds = rng.sample(_FACTS, rng.choice((2, 2, 3))) if level == 1 else ()
    for number, thing in enumerate(rng.sample(THINGS, len(of_kinds) or level)):
        state, ask, values = of_kinds[number] if of_kinds else rng.choice(_FACTS)
        value = rng.choice(values)
        facts.append((state.format(t=thing, v=value), ask.format(t=thing), value))
    _, ask, answer = rng.choice(facts)
    stated = " ".join(state for state, _, _ in facts)
    return Draft(f"{stated} {ask}", rng.choice(_ASK_FACT).format(f=stated, q=ask), answer)


def form(rng: Random, level: int) -> Draft:
    """Level 1 copies a short text, level 2 writes a JSON object."""
    if level == 1:
        words = [rng.choice(rng.choice((NAMES, CITIES, COLOURS, THINGS, DAYS))) for _ in range(rng.randint(2, 4))]
        text = " ".join(words)
        return Draft(text, rng.choice(_ASK_COPY).format(x=text), text)
    fields = {
        "name": rng.choice(NAMES),
        "city": rng.choice(CITIES),
        "day": rng.choice(DAYS),
        "item": rng.choice(THINGS),
    }
    numbers = {"age": rng.randint(18, 99), "order": rng.randint(100, 999)}
    key, other = rng.choice(list(fields)), rng.choice(list(numbers))
    prompt = rng.choice(_ASK_JSON).format(k=key, v=fields[key], l=other, w=numbers[other])
    answer = json.dumps({key: fields[key], other: numbers[other]})
    return Draft(answer, prompt, answer)
