import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierserve.core import Conversation, Prompt, Role
from tierserve.router.rules.conversations import Conversations, Standing, identify, is_short_follow_up

UP, DOWN = Standing(Role.LARGE, sent_up=True), Standing(Role.SMALL)
SYSTEM = ("system", "be kind")
FIRST, ANSWER, SECOND, THIRD = ("user", "hi"), ("assistant", "hello"), ("user", "and?"), ("user", "so?")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def at(*messages: tuple[str, str], session_id: str | None = None) -> Conversation:
    found = identify(messages, session_id)
    assert found is not None
    return found


def test_a_later_turn_finds_the_first() -> None:
    conversations = Conversations(10, 60)
    conversations.keep(at(SYSTEM, FIRST), UP)
    assert conversations.find(at(SYSTEM, FIRST, ANSWER, SECOND)) == UP
    assert conversations.find(at(SYSTEM, FIRST, ("assistant", "another answer"), SECOND)) == UP
    assert conversations.find(at(SYSTEM, FIRST, ANSWER, SECOND, ANSWER, THIRD)) == UP, (
        "the second was answered elsewhere"
    )


def test_the_latest_turn_that_is_known_counts() -> None:
    conversations = Conversations(10, 60)
    conversations.keep(at(FIRST), DOWN)
    conversations.keep(at(FIRST, ANSWER, SECOND), UP)
    assert conversations.find(at(FIRST, ANSWER, SECOND, ANSWER, THIRD)) == UP
    assert conversations.find(at(FIRST, ANSWER, THIRD)) == DOWN, "another caller who also began with `hi`"


def test_a_first_turn_looks_nowhere() -> None:
    assert at(FIRST).earlier == ()
    assert at(SYSTEM, FIRST).earlier == ()


def test_a_turn_that_goes_on_after_a_tool_was_called_finds_itself() -> None:
    conversations = Conversations(10, 60)
    conversations.keep(at(FIRST), UP)
    assert conversations.find(at(FIRST, ("assistant", ""), ("tool", "rain"))) == UP


@pytest.mark.parametrize(
    "other",
    [
        (("system", "be rude"), FIRST, ANSWER, SECOND),
        (FIRST, ANSWER, SECOND),
        (SYSTEM, ("user", "hey"), ANSWER, SECOND),
        (("user", "be kind"), FIRST, ANSWER, SECOND),
        (("system", "be kinduser 2 hi"), ANSWER, SECOND),
    ],
)
def test_another_conversation_is_not_found(other: tuple[tuple[str, str], ...]) -> None:
    conversations = Conversations(10, 60)
    conversations.keep(at(SYSTEM, FIRST), UP)
    assert conversations.find(at(*other)) is None


def test_a_session_is_one_conversation_whatever_is_said() -> None:
    conversations = Conversations(10, 60)
    conversations.keep(at(FIRST, session_id="a"), UP)
    assert conversations.find(at(("user", "unlike"), session_id="a")) == UP
    assert conversations.find(at(FIRST, ANSWER, SECOND, session_id="b")) is None
    assert conversations.find(at(FIRST, ANSWER, SECOND)) is None


def test_nothing_tells_apart_what_no_user_said() -> None:
    assert identify([SYSTEM]) is None
    assert Conversations(10, 60).find(None) is None
    Conversations(10, 60).keep(None, UP)


def test_a_long_conversation_looks_at_its_nearest_turns_and_its_first() -> None:
    messages = [message for number in range(300) for message in (("user", str(number)), ANSWER)][:-1]
    found = at(*messages)
    assert len(found.earlier) == 17
    assert found.earlier[-1] == at(messages[0]).key
    assert found.earlier[0] == at(*messages[:-2]).key
    assert len(set(found.earlier)) == 17


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.text()), max_size=8))
def test_each_beginning_is_found_by_what_follows_it(messages: list[tuple[str, str]]) -> None:
    conversations = Conversations(10, 60)
    before = identify(messages)
    conversations.keep(before, UP)
    assert conversations.find(identify([*messages, ANSWER, ("user", "more")])) == (UP if before else None)


def test_no_text_is_kept() -> None:
    conversations = Conversations(10, 60)
    conversations.keep(at(("user", "a secret"), session_id="my-session"), UP)
    conversations.keep(at(("user", "a secret")), UP)
    kept = repr(list(conversations._standings.items()))
    assert "secret" not in kept
    assert "my-session" not in kept


def test_the_number_is_bounded_and_the_least_recently_used_goes_first() -> None:
    conversations = Conversations(2, 60)
    for name in "ab":
        conversations.keep(at(FIRST, session_id=name), UP)
    conversations.find(at(FIRST, session_id="a"))
    conversations.keep(at(FIRST, session_id="c"), UP)
    assert len(conversations) == 2
    assert [conversations.find(at(FIRST, session_id=name)) for name in "abc"] == [UP, None, UP]


def test_it_expires_after_its_last_turn() -> None:
    clock = Clock()
    conversations = Conversations(10, 60, clock)
    conversations.keep(at(FIRST, session_id="a"), DOWN)
    clock.now = 50
    conversations.keep(at(FIRST, session_id="a"), UP)
    clock.now = 109
    assert conversations.find(at(FIRST, session_id="a")) == UP
    clock.now = 111
    assert conversations.find(at(FIRST, session_id="a")) is None


def test_none_are_kept_where_there_is_room_for_none() -> None:
    conversations = Conversations(0, 60)
    conversations.keep(at(FIRST, session_id="a"), UP)
    assert conversations.find(at(FIRST, session_id="a")) is None


@pytest.mark.parametrize(
    "text",
    ["yes", "go on", "Thanks!", "and then?", " ok \n", "ja, weiter", "да", "继续", "👍", "why?", "the 2nd one", ":("],
)
def test_what_says_little_by_itself_is_a_follow_up(text: str) -> None:
    assert is_short_follow_up(Prompt(text, 2), 24)


@pytest.mark.parametrize(
    "text",
    [
        "Prove it.",
        "now IMPLEMENT that",
        "Explain monads",
        "x^2 = 2",
        "fix f(x)",
        "`rm -rf`",
        "Why does the sky look blue at noon?",
        "a b c d e f",
        "请证明黎曼猜想并给出完整推导",
    ],
)
def test_what_asks_for_work_or_is_longer_is_none(text: str) -> None:
    assert not is_short_follow_up(Prompt(text, 2), 24)


@given(st.text(), st.integers(0, 50))
def test_no_text_longer_than_the_limit_is_one(text: str, most: int) -> None:
    assert not is_short_follow_up(Prompt(text), most) or len(text.strip()) <= most
