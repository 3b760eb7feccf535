from __future__ import annotations

import pytest
import torch
from torch import nn

from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.loading.modules import load_into


class Model(nn.Module):
    """An embedding, an output layer that may be tied to it, and a buffer."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(1))


def on_meta(tied: bool = False) -> Model:
    with torch.device("meta"):
        return Model(tied)


def tensors() -> dict[str, torch.Tensor]:
    return {
        "embed.weight": torch.randn(8, 4).to(torch.bfloat16),
        "head.weight": torch.randn(8, 4).to(torch.bfloat16),
        "scale": torch.ones(1),
    }


def test_parameters_become_the_very_tensors() -> None:
    module, given = on_meta(), tensors()
    load_into(module, given)
    assert module.embed.weight.data_ptr() == given["embed.weight"].data_ptr()
    assert module.head.weight.dtype == torch.bfloat16
    assert not any(tensor.is_meta for tensor in module.state_dict().values())


def test_a_tied_parameter_may_be_missing() -> None:
    module, given = on_meta(tied=True), tensors()
    del given["head.weight"]
    load_into(module, given)
    assert module.head.weight.data_ptr() == given["embed.weight"].data_ptr()


def test_tied_parameters_stay_tied() -> None:
    module, given = on_meta(tied=True), tensors()
    given["head.weight"] = given["embed.weight"].clone()
    load_into(module, given)
    assert module.head.weight is module.embed.weight


def test_tied_parameters_with_different_values_are_refused() -> None:
    module = on_meta(tied=True)
    with pytest.raises(ConfigurationError, match=r"tied, 1 of its tensors: head\.weight"):
        load_into(module, tensors())
    assert module.embed.weight.is_meta


def test_integers_for_a_parameter_with_gradients_are_refused_and_nothing_is_assigned() -> None:
    module = on_meta()
    given = tensors() | {"head.weight": torch.ones(8, 4, dtype=torch.int8)}
    with pytest.raises(ConfigurationError, match=r"head\.weight \(torch\.int8\)"):
        load_into(module, given)
    assert module.embed.weight.is_meta


def test_a_missing_tensor_is_named_and_nothing_is_assigned() -> None:
    module, given = on_meta(), tensors()
    del given["head.weight"]
    with pytest.raises(ConfigurationError, match=r"does not hold 1 of its tensors: head\.weight"):
        load_into(module, given)
    assert module.embed.weight.is_meta


def test_an_unknown_tensor_is_named() -> None:
    given = tensors() | {"other.weight": torch.ones(1)}
    with pytest.raises(ConfigurationError, match=r"the module has not, 1 .*: other\.weight"):
        load_into(on_meta(), given)


def test_another_shape_is_named_with_both() -> None:
    given = tensors() | {"head.weight": torch.ones(4, 4)}
    with pytest.raises(ConfigurationError, match=r"head\.weight \(\[4, 4\] for \[8, 4\]\)"):
        load_into(on_meta(), given)


def test_many_wrong_names_are_counted() -> None:
    given = tensors() | {f"layer.{i}": torch.ones(1) for i in range(9)}
    with pytest.raises(ConfigurationError, match="and 4 more"):
        load_into(on_meta(), given)
