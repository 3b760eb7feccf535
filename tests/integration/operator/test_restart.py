from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.operator.world import (
    JOBS,
    SETS,
    Admin,
    OperatorProcess,
    PaperKubelet,
    summary,
)

pytestmark = pytest.mark.integration


def test_an_operator_that_was_killed_goes_on_where_it_was(
    admin: Admin, kubelet: PaperKubelet, operator_kubeconfig: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with OperatorProcess(operator_kubeconfig, log, "--namespace", admin.namespace) as first:
        admin.apply_model("minilm")
        job = kubelet.job("minilm")
        first.kill()
    # All this happens while nobody looks.
    kubelet.finish_job(job, summary())
    with OperatorProcess(operator_kubeconfig, log, "--namespace", admin.namespace) as second:
        kubelet.start_group(kubelet.sets("minilm")[0])
        admin.wait_for_condition("minilm", "Ready", "True")
        assert [len(admin.list(JOBS)), len(admin.list(SETS))] == [1, 1]
        assert second.stop() == 0


def test_one_namespace_is_served_and_no_other(
    admin: Admin, operator_kubeconfig: Path, tmp_path: Path
) -> None:
    other = Admin(admin.kubeconfig, "default")
    with OperatorProcess(
        operator_kubeconfig,
        tmp_path / "log",
        variables={"SHARDEDMODEL_NAMESPACES": admin.namespace},
    ):
        other.apply_model("unserved")
        admin.apply_model("served")
        PaperKubelet(admin).job("served")
        assert not other.list(JOBS)
    other.request("DELETE", "/apis/shardedmodel.dev/v1alpha1/namespaces/{}/shardedmodels/unserved")
    other.close()
