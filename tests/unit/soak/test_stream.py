from __future__ import annotations

from tests.soak.stream import refused
from tests.unit.soak.builders import accepted


def test_a_model_that_lives_in_the_stream_is_refused_by_the_operator() -> None:
    model = accepted(refused("stream-1"))
    assert model.spec is None
    assert [problem.field for problem in model.problems] == [
        "spec.workers.template.spec.volumes[0].name"
    ]
