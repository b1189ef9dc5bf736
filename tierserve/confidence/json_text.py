"""The inside of a JSON string (RFC 8259, section 7), decoded while it is being written. The standard library's parser
decodes; here is only decided how much of what is there it can be given."""

import json
import re
from typing import Final

# All that is complete: characters, escapes, and both halves of a surrogate pair together.
_COMPLETE: Final = re.compile(
    r'(?:[^"\\]'
    r'|\\["\\/bfnrt]'
    r"|\\u(?![dD][89abAB])[0-9a-fA-F]{4}"
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*"
)
# A first half that no second one follows, which is known once what follows can't become one.
_LONE: Final = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!$|\\$|\\u$|\\u[dD]$|\\u[dD][c-fC-F][0-9a-fA-F]{0,2}$)")
# What may still become one of these.
_BEGUN: Final = re.compile(
    r"\\(?:u[0-9a-fA-F]{0,3}|u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?)?"
)
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class JsonText:
    """`feed` gives back what the text has grown by. `ended`: the closing quote was read; what follows is not the
    string's. `broken`: this can't be a JSON string; what was right before that was given."""

    def __init__(self) -> None:
        self.ended = False
        self.broken = False
        self._pending = ""

    def feed(self, text: str) -> str:
        if self.ended or self.broken:
            return ""
        self._pending += text
        read = ""
        while True:
            complete = _COMPLETE.match(self._pending)
            assert complete is not None  # it matches nothing, too
            read += json.loads(f'"{complete[0]}"', strict=False)
            self._pending = self._pending[complete.end() :]
            lone = _LONE.match(self._pending)
            if lone is None:
                break
            read += _REPLACEMENT
            self._pending = self._pending[lone.end() :]
        self.ended = self._pending.startswith('"')
        self.broken = not self.ended and _BEGUN.fullmatch(self._pending) is None and self._pending != ""
        return without_surrogates(read)


def without_surrogates(text: str) -> str:
    """Halves of surrogate pairs that stand alone, which UTF-8 can't carry, replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
