"""Dated measurements, each with machine, date and what was run."""
