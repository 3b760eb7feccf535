"""An entrypoint for the tests: uploads what its rank holds in memory, then keeps holding it.

Mounted into the rank pods from a ConfigMap, as a user would bring an entrypoint without an image.
"""

from __future__ import annotations

import os
import threading
from typing import Any


def dump(context: Any) -> None:
    """Upload the rank's ``state_dict`` to ``s3://shards/dumps/<model>/<rank>.safetensors``."""
    import boto3
    from botocore.config import Config
    from safetensors.torch import save

    # Views of one arena share storage, which the format's writer refuses: copy each.
    tensors = {name: tensor.clone() for name, tensor in context.state_dict.items()}
    client = boto3.client(
        "s3",
        endpoint_url=os.environ["DUMP_ENDPOINT_URL"],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    key = f"dumps/{os.environ['DUMP_PREFIX']}/{os.environ['RANK']}.safetensors"
    client.put_object(Bucket="shards", Key=key, Body=save(tensors))
    threading.Event().wait()
