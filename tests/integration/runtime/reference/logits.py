"""The logits of a sharded model against those of the whole one."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tests.integration.runtime.reference.parallel_model import ParallelModel
from tests.integration.runtime.reference.shards import Names, load_whole, read_shards

TOKENS = torch.tensor([[3, 141, 59, 26, 53, 58, 97, 93]])
PIXELS = (3, 8, 8)
SAMPLES = 4
"""Texts and images of which each is compared with each."""
OUTPUTS = ("logits", "logits_per_text", "last_hidden_state")
"""What models give; the first of these that one has is compared."""


class Whole:
    """An unsharded model and what it gives, made once: ranks are forked and have it.

    Args:
        folder: of its checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self._model = load_whole(folder)
        self._names = Names(self._model)
        self._expected = _outputs(self._model)

    def difference(self, layout_uri: str, rank: int) -> tuple[float, float]:
        """How far the logits are of the model that is sharded as in a layout.

        Returns:
            The largest absolute difference, and the largest absolute logit.
        """
        held, cuts = read_shards(layout_uri, rank)
        by_parameter = {self._names.of(name): cut for name, cut in cuts.items()}
        model = deepcopy(self._model)
        ParallelModel(self._names.fused(held), by_parameter).take_over(model)
        found = _outputs(model)
        return float((found - self._expected).abs().max()), float(self._expected.abs().max())


@torch.no_grad()
def _outputs(model: PreTrainedModel) -> torch.Tensor:
    output = model(**_inputs(model))
    found: torch.Tensor = next(output[name] for name in OUTPUTS if name in output)
    return found


def _inputs(model: PreTrainedModel) -> dict[str, Any]:
    torch.manual_seed(1)
    config = model.config
    if config.model_type in ("clip", "siglip"):
        texts = TOKENS.repeat(SAMPLES, 1)
        texts[:, 0] = torch.arange(SAMPLES)
        return {"input_ids": texts, "pixel_values": torch.randn(SAMPLES, *PIXELS)}
    inputs: dict[str, Any] = {"decoder_input_ids": TOKENS} if config.is_encoder_decoder else {}
    match model.main_input_name:
        case "pixel_values":
            return {"pixel_values": torch.randn(1, *PIXELS)}
        case "input_features":
            frames = 2 * config.max_source_positions
            return inputs | {"input_features": torch.randn(1, config.num_mel_bins, frames)}
    return inputs | {"input_ids": TOKENS}
