"""The operator's settings: the one place where its environment is read.

Every setting is a variable ``SHARDEDMODEL_…``; a flag of the command line outranks it. A variable
with that prefix which is not a setting is refused: a typing error must not pass as a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from shardedmodel_operator.errors import SettingsError
from shardedmodel_runtime.errors import excerpt

PREFIX = "SHARDEDMODEL_"

Namespace = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]

HostPath = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$")]

LEASE_PATTERN = r"^$|^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$"
"""Namespace and name, as Kubernetes allows them."""


LISTS = ("namespaces", "cache_host_paths")
"""Settings that are written with commas between their items."""


class Settings(BaseModel):
    """What the operator is told from outside."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runtime_image: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    """Image of Job and rank pods where ``spec.workers.image`` is empty; needed, since the operator
    cannot know where its own release was pushed to."""

    runtime_image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Pull policy of that image: a digest or a release tag does not change under its name."""

    namespaces: tuple[Namespace, ...] = ()
    """Namespaces that are served; none means all of them, which needs a ClusterRole."""

    lease: Annotated[str, StringConstraints(pattern=LEASE_PATTERN)] = ""
    """Lease, ``namespace/name``, by which one of several operators acts; none means that this one
    always does, and must be the only one of its namespaces."""

    pod_disruption_budgets: bool = True
    """Whether models get a PodDisruptionBudget where the server has ``policy/v1``."""

    cache_host_paths: tuple[HostPath, ...] = ()
    """Paths of nodes, separated by commas, that `spec.workers.cache.hostPath` may lie in or below;
    none allows no such cache."""

    workers: int = Field(default=8, ge=1, le=64)
    """Models that are reconciled at a time: they wait for the API server, not for the CPU. Of a
    reconciliation in a burst of a thousand models, a sixteenth is computation."""

    resync_seconds: float = Field(default=300, ge=1, le=86400)
    """Every so often everything is listed and reconciled anew, whatever the watches said. Five
    minutes bound what a lost event can cost; five LIST calls are nothing to the server."""

    port: int = Field(default=8080, ge=0, le=65535)
    """Port of ``/healthz``, ``/readyz`` and ``/metrics``; 0 takes a free one."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe line that is logged."""

    log_format: Literal["json", "text"] = "json"
    """json: one object a line, for collectors; text: for people at a terminal."""

    @classmethod
    def read(
        cls, environment: Mapping[str, str], overrides: Mapping[str, object] | None = None
    ) -> Self:
        """Read the settings from ``environment``, under ``overrides`` from the command line.

        Raises:
            SettingsError: a variable is unknown, missing or not valid; all are named at once.
        """
        values: dict[str, object] = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environment.items()
            if name.startswith(PREFIX)
        }
        for name in LISTS:
            if isinstance(listed := values.get(name), str):
                values[name] = [part.strip() for part in listed.split(",") if part.strip()]
        values.update(overrides or {})
        try:
            return cls.model_validate(values)
        except ValidationError as e:
            raise SettingsError("; ".join(_complaints(e))) from e


def _complaints(error: ValidationError) -> list[str]:
    """Say of each variable what is wrong with it, in the order of the settings."""
    return [_complaint(e["type"], str(e["loc"][0]), e["msg"], e["input"]) for e in error.errors()]


def _complaint(kind: str, field: str, text: str, value: object) -> str:
    variable = PREFIX + field.upper()
    if kind == "extra_forbidden":
        known = ", ".join(PREFIX + name.upper() for name in Settings.model_fields)
        return f"{variable}: is not a setting; remove it or use one of {known}"
    if kind == "missing":
        return f"{variable}: is not set; give the image of Job and rank pods"
    return f"{variable}: {excerpt(str(value), 60)!r} is not valid: {text}"
