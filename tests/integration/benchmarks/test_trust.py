"""Commands of the benchmarks that trust one more certificate, in a real mount namespace."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.trust import BUNDLE, trusting

pytestmark = pytest.mark.integration


def test_what_trusts_a_certificate_beside_the_systems_sees_both_and_the_rest_does_not(
    tmp_path: Path,
) -> None:
    certificate = tmp_path / "cert.pem"
    certificate.write_bytes(b"one more\n")
    command = trusting(certificate, tmp_path)  # makes sure that the system has a bundle
    before = BUNDLE.read_bytes()
    seen = subprocess.check_output([*command, "cat", str(BUNDLE)])
    assert seen == before + b"one more\n"
    assert BUNDLE.read_bytes() == before
