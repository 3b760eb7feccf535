"""The base of all models of the custom resource."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

INT32_MAX = 2**31 - 1
"""Largest integer of the OpenAPI format ``int32``; a field bounded by it is written as one."""

MAX_URI = 1024
"""Characters of an address: S3 keys end at 1,024 bytes, and CEL's cost check wants a bound."""

ShortText = Annotated[str, StringConstraints(max_length=253)]
"""A name of Kubernetes' own kind (DNS subdomain: 253 characters)."""
LongText = Annotated[str, StringConstraints(max_length=MAX_URI)]
Count = Annotated[int, Field(ge=0, le=INT32_MAX)]
Bytes = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Rate = Annotated[float, Field(ge=0, description="Bytes per second.")]


class ApiModel(BaseModel):
    """Base: camelCase in manifests, immutable, unknown fields refused.

    The docstring under a field becomes its description in the CRD and in the reference.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    def to_object(self) -> dict[str, Any]:
        """Give the JSON value as Kubernetes keeps it: camelCase, absent fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def cel(rule: str, message: str) -> JsonDict:
    """One entry of ``x-kubernetes-validations`` (Kubernetes ≥ 1.25; older servers ignore it)."""
    return {"rule": rule, "message": message}


def validations(*rules: JsonDict) -> Any:
    """Attach CEL rules to a field."""
    return Field(json_schema_extra={"x-kubernetes-validations": list(rules)})
