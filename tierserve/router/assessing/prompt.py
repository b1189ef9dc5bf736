"""The self-assessment prompt. Pure: it knows no tokenizer and no model.

lab-assessor is trained on these very words (lab/assessment.py): other ones need another lab-assessor.
"""

from typing import Final

RATINGS: Final = range(11)
SYSTEM: Final = """Rate how hard the user's request is for a small language model. 0 is trivial, 10 is beyond it. \
Do not answer the request; reply with the number alone.

Request: What colour is the table? The table is red.
Rating: 0
Request: I forgot my password. What is the intent of this message?
Rating: 0
Request: Format this JSON
Rating: 1
Request: Add 48 and 75.
Rating: 4
Request: Sort the letters of KPDAZWBE.
Rating: 6
Request: Refactor this recursive algorithm to iterative with O(1) space
Rating: 8
Request: Prove that there are infinitely many primes of the form 4k + 3.
Rating: 9"""
BEFORE: Final = "Request: "
AFTER: Final = "\nRating:"


def messages(request: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"{BEFORE}{request}{AFTER}"}]
