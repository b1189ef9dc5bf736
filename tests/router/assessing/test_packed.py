import pytest
import torch

from tierserve.router.assessing.packed import pack
from tierserve.router.processor import has


@pytest.mark.parametrize("bias", [True, False])
def test_packed_layers_give_what_they_gave(bias: bool) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(64, 96, bias=bias), torch.nn.SiLU(), torch.nn.Linear(96, 32, bias=bias)
    )
    module = module.to(torch.bfloat16).eval()
    values = torch.randn(3, 7, 64, dtype=torch.bfloat16)
    with torch.inference_mode():
        before = module(values).float()
        packed = pack(module)
        after = module(values).float()
    assert packed == has("avx512_bf16")
    assert packed == (not isinstance(module[0], torch.nn.Linear))
    assert (after - before).abs().max() <= 0.02 * before.abs().max()


def test_float32_is_left_as_it_is() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(8, 8))
    pack(module)
    assert isinstance(module[0], torch.nn.Linear)
