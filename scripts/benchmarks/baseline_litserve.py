"""LitServe on the same graph, with its default settings: `python baseline_litserve.py ARTIFACT PORT`."""

import sys
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

from lengthwise.export.artifact.engine import OnnxEncoder


class Api(litserve.LitAPI):
    """Texts to vectors, one request at a time."""

    def setup(self, device: str) -> None:
        """Load the artifact in the worker process."""
        self.encoder = OnnxEncoder.load(sys.argv[1])

    def decode_request(self, request: dict[str, Any]) -> list[str]:
        """The texts of a request."""
        texts: list[str] = request["inputs"]
        return texts

    def predict(self, texts: list[str]) -> NDArray[np.float32]:
        """Their vectors."""
        return self.encoder.encode(texts)

    def encode_response(self, vectors: NDArray[np.float32]) -> list[list[float]]:
        """Vectors as JSON."""
        found: list[list[float]] = vectors.tolist()
        return found


if __name__ == "__main__":
    server = litserve.LitServer(Api(api_path="/embed"), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error")
