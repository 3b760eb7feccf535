"""``spec.source`` and ``spec.storage``: where checkpoints come from and layouts are kept."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import StringConstraints

from shardedmodel_operator.api.base import (
    MAX_URI,
    ApiModel,
    LongText,
    ShortText,
    cel,
    validations,
)

URI_PATTERN = r"^(s3://[A-Za-z0-9][A-Za-z0-9._-]{1,254}(/.*)?|file:///.+)$"
"""Addresses that the runtime can open; one pattern for CEL (RE2) and for the operator."""
URI_HINT = "is not an address that can be opened; use s3://bucket/prefix or file:///absolute/path"
ENDPOINT_PATTERN = r"^https?://[^/@]+(/[^@]*)?$"
"""URLs of S3 servers. No ``user:password@``: a spec is readable by more people than a Secret."""
ENDPOINT_HINT = "is not a URL without credentials; use http://host:port or https://host"


def known_address(uri: str) -> bool:
    """Whether the runtime can open ``uri``."""
    return re.search(URI_PATTERN, uri) is not None


def known_endpoint(url: str) -> bool:
    """Whether ``url`` is empty or a URL of a server, without credentials in it."""
    return url == "" or re.search(ENDPOINT_PATTERN, url) is not None


Uri = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_URI),
    validations(cel(f"self.matches('{URI_PATTERN}')", URI_HINT)),
]
EndpointUrl = Annotated[
    LongText,
    validations(cel(f"self == '' || self.matches('{ENDPOINT_PATTERN}')", ENDPOINT_HINT)),
]
REGION_PATTERN = r"^$|^[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?$"
"""Empty, or a label of a server's name: boto3 takes no other."""
Region = Annotated[str, StringConstraints(max_length=63, pattern=REGION_PATTERN)]


class SecretReference(ApiModel):
    """A Secret in the namespace of the model, by name."""

    name: Annotated[ShortText, StringConstraints(min_length=1)]
    """Name of the Secret. Its keys are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if need be,
    AWS_SESSION_TOKEN. The kubelet mounts it into the pods; the operator never reads it."""


class Store(ApiModel):
    """An address in an object store or a mounted file system, and how to reach it."""

    uri: Uri
    """Address: `s3://bucket/prefix`, or `file:///path` of a volume that `workers.template`
    mounts."""
    endpoint_url: EndpointUrl = ""
    """URL of an S3 server other than AWS, such as `http://minio.storage.svc:9000`."""
    region: Region = ""
    """Region in which to ask for the bucket; where its server answers that it is in another, that
    one is asked."""
    credentials_secret_ref: SecretReference | None = None
    """Secret with the credentials. Without it the pods use what their service account gives."""


class Source(Store):
    """The checkpoint: a Hugging Face folder of safetensors files."""

    revision: ShortText = ""
    """A word of your own for the version of the source. Change it when the files behind `uri` have
    changed: the source is then read anew."""


class Storage(Store):
    """Where layouts are kept."""

    retention: Literal["Retain", "Delete"] = "Retain"
    """What becomes of the layout when the model is deleted. Delete: a Job deletes it, unless
    another model uses it; the model goes when that is done, or when it could not be done in time.
    The model then carries a finalizer."""
