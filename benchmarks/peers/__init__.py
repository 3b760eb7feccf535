"""Loaders to compare: each brings the same safetensors objects into host memory, whole.

``python -m benchmarks.peers`` reads lines of JSON, loader's name and task, and forks a process for
each: nothing is warm but imports and the server's page cache, and the peak of memory is the
loader's own. Clients, and the raw limit's buffer, are made before the clock starts.
"""
