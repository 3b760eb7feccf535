"""Whether the data file still says what the installed transformers says.

``make verify`` compares all of the file; this is the part of it that takes seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import pytest

from shardedmodel_runtime.sharding.architectures.carried import carried
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
