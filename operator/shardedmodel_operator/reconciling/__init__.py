"""The loop: watches enqueue keys, workers observe, plan and act."""
