"""Minutes of chaos on a real cluster, drawn by a seed, and a look at what is left afterwards.

``script`` draws what is done and when, ``actor`` and ``faults`` do it, ``observer`` writes down
what happens meanwhile, and ``verdict`` holds the cluster and ``layouts`` the bucket against what
the specs ask for. Then ``stream`` changes the models that came to rest, which tells ``memory``
whether the operators grow. ``python -m tests.soak`` (``make soak``) runs all of it, and ``report``
writes it down.
"""
