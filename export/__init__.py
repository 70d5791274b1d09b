"""From a PackedEncoder to ONNX and TorchScript, and the proof that every runtime computes the same vectors."""
