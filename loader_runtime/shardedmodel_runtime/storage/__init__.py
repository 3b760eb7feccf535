"""Object storage as the runtime needs it: exact ranged reads, multipart writes, exact counters."""
