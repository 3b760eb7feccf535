"""How the tensors of known architectures are cut: carried over from transformers, or by hand."""
