from __future__ import annotations

import subprocess
import sys


def test_an_error_that_a_library_raises_as_well_is_logged_in_one_line() -> None:
    program = (
        "import logging\n"
        "from shardedmodel_runtime import logs\n"
        "logs.configure()\n"
        "try:\n"
        "    open('/nonexistent')\n"
        "except OSError:\n"
        "    logging.getLogger('botocore.credentials').warning('no token', exc_info=True)\n"
    )
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    assert said == "WARNING botocore.credentials: no token\n"
