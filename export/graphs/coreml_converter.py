"""coreml_converter.py SOURCE TARGET: TorchScript (`.pt`) to a Core ML model (`.mlpackage`).

Run as a script, by a Python that has coremltools and torch, and perhaps not this package.
"""

from __future__ import annotations

import sys
import warnings

LONGEST = 1024  # tokens
OUTPUTS = ("sentence_embedding", "token_embeddings", "logits")


def main(source: str, target: str) -> None:
    """Convert a file; inputs int32[1, sequence] twice, float32 throughout."""
    warnings.simplefilter("ignore")
    import coremltools
    import numpy as np
    import torch

    model = torch.jit.load(source).eval()
    count = len(model(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.int64)))
    shape = (1, coremltools.RangeDim(1, LONGEST, default=8))
    converted = coremltools.convert(
        model,
        inputs=[coremltools.TensorType(name, shape, dtype=np.int32) for name in ("input_ids", "attention_mask")],
        outputs=[coremltools.TensorType(name) for name in OUTPUTS[:count]],
        convert_to="mlprogram",
        compute_precision=coremltools.precision.FLOAT32,
        minimum_deployment_target=coremltools.target.iOS17,
        skip_model_load=True,
    )
    converted.save(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
