"""A plain FastAPI handler on the same graph, without batching: `python baseline_fastapi.py ARTIFACT PORT`."""

from __future__ import annotations

import sys

import uvicorn
from fastapi import Body, FastAPI

from lengthwise.export.artifact.engine import OnnxEncoder


def make_app(artifact: str) -> FastAPI:
    """An application with one handler, which FastAPI runs in its thread pool."""
    app, encoder = FastAPI(), OnnxEncoder.load(artifact)

    @app.post("/embed")
    def embed(inputs: list[str] = Body(embed=True)) -> list[list[float]]:
        found: list[list[float]] = encoder.encode(inputs).tolist()
        return found

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="error", access_log=False)
