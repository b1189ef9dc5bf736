"""Who gets how much of GPUs of 80 and 141 GB."""

import pytest
from direct.memory import DoesNotFit, Room, halves, shrunk, whole
from direct.models import LLAMA_8B, LLAMA_70B

GIB = 1 << 30
H100 = Room(81_559 << 20, 4 * GIB, 8 * GIB)
H200 = Room(143_771 << 20, 4 * GIB, 8 * GIB)


def test_both_fit_the_greater_one_and_fill_it() -> None:
    small, large = halves(H200, LLAMA_8B, LLAMA_70B)
    assert small.kv_bytes == large.kv_bytes > 20 * GIB
    assert small.of_gpu + large.of_gpu == pytest.approx(0.96, abs=0.001)
    assert shrunk(H200, LLAMA_8B, LLAMA_70B) == (LLAMA_8B, LLAMA_70B)


def test_alone_the_large_one_gets_what_the_small_one_had() -> None:
    alone = whole(H200, LLAMA_70B)
    small, large = halves(H200, LLAMA_8B, LLAMA_70B)
    assert alone.of_gpu == pytest.approx(0.96, abs=0.001)
    assert alone.kv_bytes - large.kv_bytes > small.kv_bytes + LLAMA_8B.weight_bytes


def test_the_lesser_one_is_refused_and_told_what_helps() -> None:
    with pytest.raises(
        DoesNotFit, match=r"llama-70b \(fp8, 80 layers\) take 15.0 and 67.7 GiB .* has 79.6, .* --shrink"
    ):
        halves(H100, LLAMA_8B, LLAMA_70B)
    with pytest.raises(DoesNotFit, match="KV cache"):
        whole(H100, LLAMA_70B)


def test_shrunk_they_fit_it_with_as_many_layers_as_there_is_room_for() -> None:
    small, large = shrunk(H100, LLAMA_8B, LLAMA_70B)
    assert small.fp8 and small.layers == 32 and 40 <= large.layers < 80
    halves(H100, small, large)
    with pytest.raises(DoesNotFit):
        halves(H100, small, large.with_layers(large.layers + 1))


def test_what_is_left_of_a_large_model_must_be_one() -> None:
    with pytest.raises(DoesNotFit, match="too few to be a large model"):
        shrunk(Room(24 * GIB, 2 * GIB, GIB), LLAMA_8B, LLAMA_70B)
