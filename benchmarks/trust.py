"""Commands that trust one more certificate, for clients that only ask the system.

s3torchconnector has no setting and reads no variable for certificate authorities: its client takes
the system's bundle. So the command sees a bundle with one more certificate in its place, by a
mount in a namespace of its own, which ends with its last process. The system's file stays as it is.
"""

from __future__ import annotations

from pathlib import Path

from tests.devcluster import packages

BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
"""Where Debian keeps the certificate authorities that the system trusts."""
_MOUNT = 'mount --bind "$0" "$1" && shift && exec "$@"'


def trusting(certificate: Path, folder: Path) -> tuple[str, ...]:
    """Give the words that run a command which also trusts ``certificate``; needs root.

    Args:
        certificate: in PEM.
        folder: for the bundle; it has to stay while the command runs.
    """
    packages.ensure(("ca-certificates",), print)
    bundle = folder / "trusted.crt"
    bundle.write_bytes(BUNDLE.read_bytes() + certificate.read_bytes())
    return ("unshare", "--mount", "sh", "-c", _MOUNT, str(bundle), str(BUNDLE))
