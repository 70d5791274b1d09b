"""The same graph behind servers that do not batch: a plain FastAPI handler, and LitServe as it comes.

python rivals.py fastapi|litserve ARTIFACT PORT
"""

from __future__ import annotations

import sys
from typing import Any

from export.engine import OnnxEncoder


def fastapi_app(artifact: str) -> Any:
    """A handler that encodes what it is sent; FastAPI runs it in its threads."""
    from fastapi import Body, FastAPI

    app, encoder = FastAPI(), OnnxEncoder.load(artifact)

    @app.post("/embed")
    def embed(inputs: list[str] = Body(embed=True)) -> list[list[float]]:
        found: list[list[float]] = encoder.encode(inputs).tolist()
        return found

    return app


def litserve_server(artifact: str) -> Any:
    """LitServe with the settings that it has by itself."""
    import litserve

    class Api(litserve.LitAPI):  # type: ignore[misc]
        def setup(self, device: str) -> None:  # noqa: D102
            self.encoder = OnnxEncoder.load(artifact)

        def decode_request(self, request: dict[str, Any]) -> list[str]:  # noqa: D102
            texts: list[str] = request["inputs"]
            return texts

        def predict(self, texts: list[str]) -> Any:  # noqa: D102
            return self.encoder.encode(texts)

        def encode_response(self, vectors: Any) -> list[list[float]]:  # noqa: D102
            found: list[list[float]] = vectors.tolist()
            return found

    return litserve.LitServer(Api(api_path="/embed"), accelerator="cpu")


def main(kind: str, artifact: str, port: str) -> None:
    """Serve until killed."""
    if kind == "litserve":
        litserve_server(artifact).run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="error")
    else:
        import uvicorn

        uvicorn.run(fastapi_app(artifact), host="127.0.0.1", port=int(port), log_level="error", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
