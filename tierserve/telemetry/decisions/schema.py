"""The file's tables, as numbered migrations: `PRAGMA user_version` is the number of those that a file has had.

A migration that has been released is never changed; what is new comes as another one behind it.
"""

import sqlite3
from typing import Final

_DECISIONS = """
CREATE TABLE decisions (
    seq INTEGER PRIMARY KEY,             -- in the order in which requests ended
    time REAL NOT NULL,                  -- when it ended, seconds since 1970
    id TEXT NOT NULL,                    -- x-request-id; callers may use one twice
    trace_id TEXT,                       -- NULL: not traced
    key TEXT NOT NULL,                   -- the name of the caller's key; empty: the node has none
    kind TEXT NOT NULL,                  -- chat, completion
    stream INTEGER NOT NULL,
    status TEXT NOT NULL,
    tier TEXT,                           -- who answered, by name; NULL: nobody
    role TEXT,                           -- small, large; that and cause NULL: it ended before a decision
    cause TEXT,
    score REAL,                          -- 0 to 10; NULL: nobody asked for one
    threshold REAL,                      -- in force when the request ended
    confidence REAL,                     -- 0 to 1; NULL: not judged, or never known
    doubt TEXT,
    escalated INTEGER,                   -- NULL: the answer was not to be judged
    held_s REAL,                         -- likewise
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    wasted_prompt_tokens INTEGER NOT NULL,
    wasted_completion_tokens INTEGER NOT NULL,
    route_s REAL,
    queue_s REAL NOT NULL,
    first_byte_s REAL,                   -- since arrival, as is total_s
    total_s REAL NOT NULL,
    cost REAL,                           -- all that was spent; the three NULL: no prices, or none known yet
    cost_all_large REAL,
    cost_wasted REAL,
    turns INTEGER,                       -- of the first prompt; NULL: there is none
    prompts INTEGER NOT NULL,            -- how many there were: a completion may have several
    prompt TEXT,                         -- what was scored; this and answer NULL: text is not kept
    answer TEXT,
    embedding BLOB,                      -- float16, the encoder's vector of the first prompt; NULL: not kept
    features BLOB                        -- float16, router/scoring/features.py of it; likewise
);
CREATE INDEX decisions_by_time ON decisions (time);
CREATE INDEX decisions_by_id ON decisions (id);
"""

_COMPARISONS = """
CREATE TABLE comparisons (
    seq INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL,            -- decisions.id
    time REAL NOT NULL,                  -- when it was judged, seconds since 1970
    key TEXT NOT NULL,
    small_tier TEXT NOT NULL,
    large_tier TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('small', 'large', 'tie')),
    first_order TEXT,                    -- the verdict with the small tier's answer shown first; NULL: no judge
    second_order TEXT,                   -- with the large tier's shown first
    similarity REAL,                     -- cosine of the answers' embeddings, -1 to 1
    confidence REAL,                     -- in the small tier's answer, 0 to 1
    score REAL,                          -- of the prompt, 0 to 10
    judge_ms REAL,
    small_answer TEXT,                   -- this and large_answer NULL: text is not kept
    large_answer TEXT
);
CREATE INDEX comparisons_by_time ON comparisons (time);
CREATE INDEX comparisons_by_request ON comparisons (request_id);
"""

MIGRATIONS: Final = (_DECISIONS, _COMPARISONS)
VERSION: Final = len(MIGRATIONS)


def version(connection: sqlite3.Connection) -> int:
    """How many migrations the file has had."""
    number: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return number


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file up to VERSION, one transaction for each migration. `connection` is in autocommit mode."""
    for number in range(version(connection), VERSION):
        script = f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
        try:
            connection.executescript(script)
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
