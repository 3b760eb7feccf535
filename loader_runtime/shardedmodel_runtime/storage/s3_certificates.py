"""The certificate authorities that servers are checked by: boto3's choice, seen to be readable."""

from __future__ import annotations

import os
import ssl

from botocore.session import Session

from shardedmodel_runtime.errors import ConfigurationError, excerpt

AWS_VARIABLE = "AWS_CA_BUNDLE"
"""Botocore's own, before ``ca_bundle`` of a profile."""
OTHER_VARIABLE = "REQUESTS_CA_BUNDLE"
"""Where botocore looks for certificates when its own settings name none."""


def certificates(session: Session, endpoint_url: str) -> str | bool:
    """Give the file of authorities; True: those that botocore comes with.

    The file is read here, where a wrong one can be named: at each request it would look like a
    server that cannot be reached.

    Raises:
        ConfigurationError: the file cannot be read, or holds no certificate.
    """
    path = session.get_config_variable("ca_bundle") or os.environ.get(OTHER_VARIABLE)
    if not path:  # an empty one, too, by which botocore would check nothing
        return True
    if not endpoint_url.startswith("http://"):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except OSError as error:  # ssl.SSLError as well
            raise ConfigurationError(
                f"{_named_by(path)}: {excerpt(path)!r} cannot be read as certificates "
                f"({error.strerror}); name a file of them in PEM, or unset it"
            ) from error
    return str(path)


def _named_by(path: str) -> str:
    """What names the file."""
    named = (name for name in (AWS_VARIABLE, OTHER_VARIABLE) if os.environ.get(name) == path)
    return next(named, "ca_bundle of the AWS profile")
