"""Pure decisions: from a ``ShardedModel`` and what is observed to what should be done.

Nothing here reads a clock, a socket or a cluster: ``plan`` is a function of its arguments.
"""
