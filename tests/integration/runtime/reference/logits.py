"""The logits of a sharded model against those of the whole one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tests.integration.runtime.reference.parallel_model import ParallelModel
from tests.integration.runtime.reference.shards import Names, load_whole, read_shards

TOKENS = torch.tensor([[3, 141, 59, 26, 53, 58, 97, 93]])
PIXELS = (1, 3, 8, 8)


def difference(folder: Path, layout_uri: str, rank: int) -> tuple[float, float]:
    """How far the logits are from the unsharded model's.

    Returns:
        The largest absolute difference, and the largest absolute logit.
    """
    held, cuts = read_shards(layout_uri, rank)
    model = load_whole(folder)
    expected = _outputs(model)
    names = Names(model)
    by_parameter = {names.of(name): cut for name, cut in cuts.items()}
    ParallelModel(names.fused(held), by_parameter).take_over(model)
    found = _outputs(model)
    return float((found - expected).abs().max()), float(expected.abs().max())


@torch.no_grad()
def _outputs(model: PreTrainedModel) -> torch.Tensor:
    inputs: dict[str, Any] = {"input_ids": TOKENS}
    if model.config.model_type == "vit":
        torch.manual_seed(1)
        inputs = {"pixel_values": torch.randn(PIXELS)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = TOKENS
    output = model(**inputs)
    logits: torch.Tensor = output.logits if "logits" in output else output.last_hidden_state
    return logits
