"""Thin actions on the cluster: read, apply, delete, record events, pull reports. No decisions."""
