"""A proxy between a loader and a real S3 server that does what networks and servers do at worst.

``messages`` reads HTTP, ``faults`` says what each fault makes of an answer, ``schedule`` which
request meets which fault: a pure function of a seed. ``proxy`` has the sockets, ``throttle`` the
token buckets, ``campaign`` loads under faults and compares every tensor.

``python -m tests.faultproxy`` runs the campaign and prints the table that ``docs/faults.md`` keeps.
"""
