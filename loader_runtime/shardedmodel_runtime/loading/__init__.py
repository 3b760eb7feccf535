"""One rank's load: its own bytes of a layout, read in parallel, verified, as tensors."""
