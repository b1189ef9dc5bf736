"""Which tier a conversation is on, so that it does not bounce. Bounded, expiring, and without what was said.

    conversation = identify(turns, session_id)            # digests: where to look, where to keep
    standing = conversations.find(conversation)           # None for a new one
    conversations.keep(conversation, Standing(Role.LARGE, sent_up=True))

Without a session id a conversation is known by its beginnings. A turn is kept under the digest of all that system and
user said up to it, and found by the longest beginning of which anything is known: at the latest by its first
messages. So two callers who open with the same words part where their words do, a turn answered elsewhere leaves no
gap, and what the model said, which callers trim or drop, does not count.
"""

import hashlib
import re
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cachetools import TTLCache

from tierserve.core import Conversation, Prompt, Role
from tierserve.router.rules.cache import resized

# Beginnings to look up, the nearest; and the first messages. A turn is one step from its predecessor, if that was here.
_NEAREST = 16
_SHORT_WORDS = 5
# What asks for work of its own however short it is: "Prove it.", "Explain monads", `f(x)`, "x^2 = 2".
_WORK = re.compile(
    r"[`={}\[\]^\\]|\w\(|\b(analy[sz]e|architect|benchmark|build|calculate|compare|compute|create|debug|derive|describe|"
    r"design|diagnose|differentiate|evaluate|explain|fix|formali[sz]e|implement|integrate|optimi[sz]e|paralleli[sz]e|plan|"
    r"prove|refactor|rewrite|solve|summari[sz]e|translate|write)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Standing:
    """`role` is the tier of the last turn; `sent_up`, that the conversation needed the large one and stays there."""

    role: Role
    sent_up: bool = False


class Conversations:
    """`ttl_s` counts from a conversation's last turn. Of more than `entries` the least recently used are forgotten."""

    def __init__(self, entries: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._standings: TTLCache[bytes, Standing] = TTLCache(entries, ttl_s, clock)

    def __len__(self) -> int:
        return len(self._standings)

    def resize(self, entries: int, ttl_s: float) -> None:
        """Go on with other bounds; the time of what is known begins anew."""
        self._standings = resized(self._standings, entries, ttl_s, self._clock)

    def find(self, conversation: Conversation | None) -> Standing | None:
        for key in conversation.earlier if conversation else ():
            if key in self._standings:  # of a miss, a fifth of the time that `get` takes
                return self._standings.get(key)  # it may expire between the two
        return None

    def keep(self, conversation: Conversation | None, standing: Standing) -> None:
        if conversation is not None and self._standings.maxsize:
            self._standings[conversation.key] = standing


def identify(
    messages: Sequence[tuple[str, str]], session_id: str | None = None, key_name: str = ""
) -> Conversation | None:
    """`messages`: role and text of each. None where nothing tells conversations apart: no session, no user.

    The session id counts as given: callers who share one share a conversation, if they share the key as well. Its name,
    of at most 64 bytes, goes into every digest, so that no key reaches another's conversations.
    """
    owner = key_name.encode()
    if session_id is not None:
        key = hashlib.blake2b(session_id.encode(), digest_size=16, key=owner, person=b"session").digest()
        return Conversation(key, (key,))
    beginnings = _beginnings(messages, owner)
    if not beginnings:
        return None
    *earlier, key = beginnings
    nearest = earlier[: -_NEAREST - 1 : -1]
    # The model has spoken since the user did, as where tools are called: then this very turn was here before.
    resumed = [key] if messages[-1][0] != "user" else []
    return Conversation(key, (*resumed, *nearest, *earlier[: 1 if len(earlier) > _NEAREST else 0]))


def is_short_follow_up(prompt: Prompt, most_chars: int) -> bool:
    """Whether it says little by itself ("yes", "go on", "and then?"). A wide character says as much as three letters.

    What names work to be done is none however short. The words for that are English; in other languages short is
    short.
    """
    text = prompt.text.strip()
    if len(text) > most_chars or len(text.split()) > _SHORT_WORDS:
        return False
    width = sum(3 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
    return width <= most_chars and _WORK.search(text) is None


def _beginnings(messages: Sequence[tuple[str, str]], owner: bytes) -> list[bytes]:
    """The digest of what system and user said up to each of the user's turns."""
    running = hashlib.blake2b(digest_size=16, key=owner, person=b"beginning")
    found = []
    for role, text in messages:
        if role not in ("system", "developer", "user"):
            continue
        said = text.encode("utf-8", "surrogatepass")
        running.update(f"{role} {len(said)} ".encode())  # so that no two lists of messages read the same
        running.update(said)
        if role == "user":
            found.append(running.copy().digest())
    return found
