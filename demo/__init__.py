"""The demonstration: the main job on a real Kubernetes, from nothing to two ready models."""
