"""Layouts: rank objects and the manifest that commits them, written, read and undone."""
