"""Minutes of chaos on a real cluster, drawn by a seed, and a look at what is left afterwards.

``script`` draws what is done and when, ``actor`` and ``faults`` do it, ``observer`` writes down
what happens meanwhile, and ``verdict`` holds the cluster and ``layouts`` the bucket against what
the specs ask for. ``python -m tests.soak`` (``make soak``) runs all of it, and ``report`` writes it
down.
"""
