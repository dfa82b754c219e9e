"""Pure building blocks: tensors in, tensors out, and pictures on disk."""
