from tierserve.router.assessing.prompt import SYSTEM, messages


def test_the_prompt_ends_with_the_request() -> None:
    system, user = messages("Add 1 and 2.")
    assert system == {"role": "system", "content": SYSTEM}
    assert user["content"] == "Request: Add 1 and 2.\nRating:"
