"""The runtime's version, which layouts name as what made them."""

__version__ = "0.1.0"
