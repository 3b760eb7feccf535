"""The operator: reconciles ``ShardedModel`` resources, level-triggered, on kopf."""

__version__ = "0.1.0"
