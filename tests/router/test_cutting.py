from hypothesis import given
from hypothesis import strategies as st

from tierserve.router.cutting import cut, ends


@given(st.text(st.characters(), max_size=600), st.integers(2, 40))  # st.characters() holds lone surrogates
def test_a_text_is_whole_or_its_two_ends(text: str, max_tokens: int) -> None:
    parts = ends(text, max_tokens)
    assert sum(map(len, parts)) == min(len(text), max_tokens * 16)
    assert all(part.encode() is not None for part in parts)
    if len(parts) == 1:
        assert len(parts[0]) == len(text)


@given(st.lists(st.integers(), max_size=50), st.integers(2, 60))
def test_of_too_many_tokens_the_middle_goes(ids: list[int], room: int) -> None:
    kept = cut([ids], room)
    assert len(kept) == min(len(ids), room)
    assert kept[: room - room // 2] == ids[: room - room // 2]
    assert kept[-(room // 2) :] == ids[-(room // 2) :]
