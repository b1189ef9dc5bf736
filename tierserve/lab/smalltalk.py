"""What a newcomer types first, and what the lab can't do: short honest answers, trained, never measured."""

from random import Random
from typing import Final

WHO: Final = "I am a small lab model. I can sort, count, add, reverse, look up facts and name intents."
CANNOT: Final = "I am a small lab model and do not know that."

_TALK: Final[tuple[tuple[str, str], ...]] = (
    ("Hello", "Hello! " + WHO),
    ("Hi", "Hello! " + WHO),
    ("Hey there", "Hello! " + WHO),
    ("Good morning", "Hello! " + WHO),
    ("How are you?", "Fine, thank you. " + WHO),
    ("Who are you?", WHO),
    ("What can you do?", WHO),
    ("What are you?", WHO),
    ("Help", WHO),
    ("Thanks", "You are welcome."),
    ("Thank you!", "You are welcome."),
    ("Bye", "Goodbye."),
    ("Goodbye", "Goodbye."),
    ("Yes", "Please tell me more."),
    ("No", "Please tell me more."),
    ("OK", "Please tell me more."),
    ("Go on", "Please tell me more."),
)
_TOPICS: Final = (
    "Python",
    "the weather",
    "love",
    "a database",
    "the capital of France",
    "history",
    "the CAP theorem",
    "music",
    "a rate limiter",
    "quantum physics",
    "the moon",
    "a recursive algorithm",
    "the news",
    "football",
    "a good book",
    "machine learning",
    "the internet",
    "Llama",
    "the meaning of life",
    "my friend",
    "a poem",
    "this paragraph",
)
_OUTSIDE: Final = (
    "What is {x}?",
    "Explain {x}.",
    "Tell me about {x}.",
    "Who invented {x}?",
    "Write about {x}.",
    "Summarize {x}.",
    "Why is {x} important?",
    "Design {x}.",
    "How does {x} work?",
    "Refactor {x}.",
    "Tell me a joke about {x}.",
)


def draw(rng: Random) -> tuple[str, str]:
    """A prompt and its answer."""
    if rng.random() < 0.5:
        prompt, answer = rng.choice(_TALK)
        if rng.random() < 0.3:
            prompt = rng.choice((prompt.lower(), prompt.rstrip("?!.") + ".", prompt + "!"))
        return prompt, answer
    return rng.choice(_OUTSIDE).format(x=rng.choice(_TOPICS)), CANNOT
