"""Which precision a name stands for."""

import pytest
import torch

from monai_blurvae.engines.numerics import chosen_precision


@pytest.mark.parametrize("units", ["_is_avx512_bf16_supported", "_is_amx_tile_supported", None])
def test_auto_is_bfloat16_where_the_processor_computes_in_it(monkeypatch, units):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda there=name == units: there)
    assert chosen_precision("auto", "cpu") == ("float32" if units is None else "bfloat16")
    assert chosen_precision("auto", torch.device("cuda")) == "float32"
    assert chosen_precision("float16", "cpu") == "float16"


def test_an_older_torch_knows_of_no_units(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert chosen_precision("auto", "cpu") == "float32"
    with pytest.raises(ValueError, match=r"precision must be one of .* but is 'half'"):
        chosen_precision("half", "cpu")
