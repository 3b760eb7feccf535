"""File formats as bytes: safetensors headers and Hugging Face checkpoint folders; no storage."""
