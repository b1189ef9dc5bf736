"""Texts that are too long for a model: of each the beginning and the end are read. Pure.

parts = ends(text, max_tokens)                    # before the tokenizer, so that it never reads megabytes
ids = cut([tokenize(part) for part in parts], max_tokens)
"""

from collections.abc import Sequence

# English runs to about 4.5 characters a token. At 16 no text that fits is cut by its characters; a text of megabytes
# loses its middle, so that it is not tokenized whole only to be thrown away.
_CHARACTERS_PER_TOKEN = 16


def ends(text: str, max_tokens: int) -> tuple[str, ...]:
    """The text, or where it is far longer than `max_tokens` its two ends; as UTF-8 can hold it."""
    most = max_tokens * _CHARACTERS_PER_TOKEN
    parts = (text,) if len(text) <= most else (text[: most // 2], text[-(most // 2) :])
    return tuple(part.encode("utf-8", "replace").decode() for part in parts)  # JSON can hold half of a surrogate pair


def cut(parts: Sequence[list[int]], room: int) -> list[int]:
    """At most `room` of the tokens of a text's parts: of more the first half and the last half of that."""
    if len(parts) == 1 and len(parts[0]) <= room:
        return parts[0]
    tail = room // 2
    return parts[0][: room - tail] + parts[-1][-tail:]
