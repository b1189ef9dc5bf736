"""What a prompt's surface tells: length, numbers, code, mathematics, questions, turns.

Length by itself is no judge of difficulty, but among questions of one kind the longer ones gain more from the large
model (benchmarks/routing_quality.py has its figures). An embedding forgets most of this.
"""

import math
import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tierserve.core import Prompt

# Read at each end of the text: counts of a longer one would say no more, and megabytes would hold the scorer up.
_READ: Final = 4_000

# Each is linear in the text: no pattern can be entered twice at one place.
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE = re.compile(r"[.!?](?=\s|$)")  # the last mark of a run: with a + each mark reads the rest of its run
_MATHEMATICS = re.compile(r"\\[a-zA-Z]+|[=+*^/<>≤≥∑∫√π∞±×÷$]")
_CODE = re.compile(r"```|[{};]$|=>|\b(?:def|class|return|import|SELECT|FROM)\b|[a-z_]\(", re.MULTILINE)
_CHOICE = re.compile(r"^[A-J][.)] ", re.MULTILINE)
_FRACTION = re.compile(r"\d[/.]\d")
_NEGATIONS: Final = frozenset({"not", "except", "false", "incorrect", "least"})
_QUANTITIES: Final = frozenset({"if", "each", "every", "per", "than", "twice", "half", "times", "total", "left"})

NAMES: Final = (
    "characters",
    "words",
    "sentences",
    "numbers",
    "digits",
    "mathematics",
    "code",
    "questions",
    "lines",
    "word_length",
    "different_words",
    "longest_word",
    "different_numbers",
    "longest_number",
    "percentages",
    "fractions",
    "words_per_sentence",
    "commas",
    "choices",
    "negations",
    "quantities",
    "capitals",
    "beyond_ascii",
    "turns",
)


def features(prompt: Prompt) -> NDArray[np.float32]:
    """Shape (len(NAMES),), finite for any text. Counts as log(1 + count), shares and means as they are."""
    text = prompt.text if len(prompt.text) <= 2 * _READ else f"{prompt.text[:_READ]} {prompt.text[-_READ:]}"
    characters = max(len(text), 1)
    words = [word.lower() for word in _WORD.findall(text)]
    numbers = _NUMBER.findall(text)
    sentences = len(_SENTENCE.findall(text))
    count = max(len(words), 1)
    counted = (
        len(prompt.text),
        len(words),
        sentences,
        len(numbers),
        sum(map(str.isdigit, text)),
        len(_MATHEMATICS.findall(text)),
        len(_CODE.findall(text)),
        text.count("?"),
        text.count("\n"),
    )
    return np.array(
        [
            *map(math.log1p, counted),
            sum(map(len, words)) / count,
            len(set(words)) / count,
            min(max(map(len, words), default=0), 50),
            math.log1p(len(set(numbers))),
            min(max(map(len, numbers), default=0), 20),
            math.log1p(text.count("%")),
            math.log1p(len(_FRACTION.findall(text))),
            math.log1p(len(words) / max(sentences, 1)),
            math.log1p(text.count(",")),
            math.log1p(len(_CHOICE.findall(text))),
            math.log1p(sum(word in _NEGATIONS for word in words)),
            math.log1p(sum(word in _QUANTITIES for word in words)),
            sum(map(str.isupper, text)) / characters,
            1 - len(text.encode("ascii", "ignore")) / characters,
            math.log1p(prompt.turns),
        ],
        dtype=np.float32,
    )
