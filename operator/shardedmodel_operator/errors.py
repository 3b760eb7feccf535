"""The operator's errors: a branch of the product's one tree, which knows what is retryable.

    ShardedModelError
    └── OperatorError
        ├── SettingsError             the environment or a flag cannot be meant        exit 2
        └── ClusterError              the API server refused or failed                 exit 8
            ├── NotLeading            another operator acts: nothing was sent   retryable
            ├── ObjectNotFound        404: it is gone, or its kind is not served
            ├── ObjectConflict        409, 412: it changed or exists already    retryable
            ├── ClusterAccessDenied   401, 403: a right is missing              retryable
            ├── ObjectRejected        400, 413, 415, 422: the object is not valid
            └── ClusterUnavailable    timeouts, resets, 429, 5xx                retryable

Access that is denied is retryable because what denies it is often put right beside us: a quota
that is raised, a role that is bound a moment after the operator started.
"""

from __future__ import annotations

from shardedmodel_runtime.errors import ShardedModelError


class OperatorError(ShardedModelError):
    """Base of all errors that the operator raises on purpose."""


class SettingsError(OperatorError):
    """A variable of the environment or a flag cannot be meant; names it and what to do."""

    exit_code = 2


class ClusterError(OperatorError):
    """The API server refused or failed."""

    exit_code = 8

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status of the answer; 0 when there was none."""


class NotLeading(ClusterError):
    """Another operator acts, or may do so by now; the call was not sent."""

    retryable = True


class ObjectNotFound(ClusterError):
    """The object is gone, or the server does not serve its kind."""


class ObjectConflict(ClusterError):
    """The object changed meanwhile, exists already, or is not the one that was meant."""

    retryable = True


class ClusterAccessDenied(ClusterError):
    """A right is missing: RBAC, a quota, or an admission controller said no."""

    retryable = True


class ObjectRejected(ClusterError):
    """The server holds the object for invalid; sending it again cannot help."""


class ClusterUnavailable(ClusterError):
    """No answer, or one that asks to come back later."""

    retryable = True
