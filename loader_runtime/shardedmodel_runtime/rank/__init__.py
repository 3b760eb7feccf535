"""A rank pod: its supervisor, its rank processes, and the group that they form."""
