"""A pool of buffers that remembers how much memory it took."""

from __future__ import annotations

from shardedmodel_runtime.layout.buffers import BufferPool


class MeasuredPool(BufferPool):
    """Knows the most bytes of buffers, taken and kept, that there ever were at once."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.peak_bytes = 0

    def take(self, size: int) -> bytearray:
        """Look at the sum after each buffer: giving one back leaves it as it is."""
        buffer = super().take(size)
        with self._changed:
            self.peak_bytes = max(self.peak_bytes, self._taken_bytes + self._free_bytes)
        return buffer
