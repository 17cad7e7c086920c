"""Models, skeletons and metrics in plain PyTorch: tensors in, tensors out; no files, no Ray."""
