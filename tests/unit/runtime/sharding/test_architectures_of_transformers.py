"""Whether the data file still says what the installed transformers says.

``make verify`` compares all of the file; this is the part of it that takes seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import pytest

from shardedmodel_runtime.sharding.architectures.carried import carried
from shardedmodel_runtime.sharding.architectures.styles import (
    EXPERTS,
    HOOKS,
    UnknownStyle,
    rules_of,
)
from shardedmodel_runtime.sharding.families import FAMILIES

STALE = "run make generate after an update of transformers"


@pytest.fixture(scope="module")
def plans() -> Mapping[str, Mapping[str, str]]:
    """The plan that each configuration class of transformers carries, by model type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.models.auto.configuration_auto import (
            CONFIG_MAPPING,
            CONFIG_MAPPING_NAMES,
        )

        classes = {model_type: CONFIG_MAPPING[model_type] for model_type in CONFIG_MAPPING_NAMES}
    found = {name: getattr(config, "base_model_tp_plan", None) for name, config in classes.items()}
    return {name: plan for name, plan in found.items() if plan}


def test_the_data_file_is_of_the_installed_version() -> None:
    import transformers

    assert carried()["transformers"] == transformers.__version__, STALE


def test_every_type_with_a_plan_has_rules(plans: Mapping[str, Mapping[str, str]]) -> None:
    assert len(plans) >= 144
    assert sorted(set(plans) - set(FAMILIES)) == []


def test_the_data_file_holds_every_plan_word_for_word(
    plans: Mapping[str, Mapping[str, str]],
) -> None:
    known = carried()
    held = {name: known["plans"][plan]["plan"] for name, plan in known["types"].items()}
    held |= {name: composite["plan"] for name, composite in known["composites"].items()}
    drifted = [name for name, plan in plans.items() if not plan.items() <= held[name].items()]
    assert drifted == [], STALE


def test_every_composite_around_a_type_with_a_plan_has_rules() -> None:
    from tools.architectures.instances import LEFT_OUT

    assert sorted(set(LEFT_OUT) - set(FAMILIES)) == ["nougat"]
    for model_type in ("gemma4_unified_assistant", "granite4_vision", "jev", "pi0"):
        assert model_type in carried()["composites"], STALE


def test_every_style_of_every_plan_has_a_strategy(plans: Mapping[str, Mapping[str, str]]) -> None:
    styles = {style for plan in plans.values() for style in plan.values()}
    assert "colwise" in styles
    for style in styles - HOOKS:
        rules_of("layers.*.mlp.experts.up_proj", EXPERTS + style)


def test_packed_rows_are_refused_outside_of_experts() -> None:
    with pytest.raises(UnknownStyle, match="style 'packed_rowwise' has no strategy"):
        rules_of("layers.*.mlp.up_proj", "packed_rowwise")
