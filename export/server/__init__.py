"""An artifact behind HTTP: what it answers equals what batch encoding writes. Nothing here needs PyTorch."""
