"""Names of tensors that differ in digits alone: the same tensor of all layers and experts.

What depends on a name but for its numbers is found out once for all of them: a checkpoint of 90,000
tensors has some hundred names that differ otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_ZEROS = bytes.maketrans(b"123456789", b"000000000")


def alike(name: str) -> bytes:
    """What names share that differ in digits alone; positions in them are equal."""
    return name.encode().translate(_ZEROS)


class PerAlike(Generic[T]):
    """A function of names that looks at no digit's value, called once for names that are alike.

    Args:
        function: what it is; positions that it returns hold for all names that are alike.
    """

    def __init__(self, function: Callable[[str], T]) -> None:
        self._function = function
        self._known: dict[bytes, T] = {}

    def __call__(self, name: str) -> T:
        """The function's value."""
        key = alike(name)
        try:
            return self._known[key]
        except KeyError:
            value = self._known[key] = self._function(name)
            return value
