"""The settings of a server as plain annotations: name, type, limits, description and default.

Decisions:
- One definition serves twice: `settings.ServeSettings` validates these fields with pydantic, and the command line makes
  its flags of them. It imports no pydantic, so `--help` stays fast.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from typing_extensions import Doc

PositiveInt = Annotated[int, Ge(1), Lt(2**63)]
Seconds = Annotated[float, Gt(0), Le(10**9)]
NonEmpty = Annotated[str, MinLen(1)]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
Graph = Literal["native", "portable", "fp16", "int8", "int8_dynamic"]


class ServeOptions:
    """Each is a flag (`--max-items`), a variable (`LENGTHWISE_MAX_ITEMS`) and a key of a YAML file."""

    host: Annotated[str, Doc("address to listen on; 0.0.0.0 accepts connections from other machines")] = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65_535), Doc("port to listen on; 0 picks a free one")] = 8_000
    api_key: Annotated[
        NonEmpty | None,
        Doc("bearer token that clients must send; other users can read flags, so set LENGTHWISE_API_KEY instead"),
    ] = None
    model_name: Annotated[NonEmpty | None, Doc("name that clients use; the folder's name by default")] = None
    device: Annotated[Literal["cpu", "cuda", "auto"], Doc("where the encoder runs")] = "cpu"
    engine: Annotated[Literal["onnx", "torch"], Doc("onnxruntime with a graph, or PyTorch with the weights")] = "onnx"
    precision: Annotated[
        Precision | None, Doc("of the engine torch: fp32 (the default), bf16, on a CPU int8, or on a GPU fp16")
    ] = None
    variant: Annotated[Graph | None, Doc("graph to run; by default the one that validation recommends")] = None
    workers: Annotated[
        PositiveInt | None, Doc("batches computed at once; by default one per core, or two on a GPU")
    ] = None
    state_cache_bytes: Annotated[
        int,
        Ge(0),
        Lt(2**63),
        Doc("memory for states after beginnings that texts have in common, in bytes; engine torch on a CPU; 0: none"),
    ] = 64 * 2**20
    max_batch_tokens: Annotated[PositiveInt, Doc("limit of a batch, in cells (rows x longest row)")] = 4_096
    max_text_tokens: Annotated[PositiveInt, Doc("limit of a text, in tokens")] = 4_096
    max_items: Annotated[PositiveInt, Doc("limit of a request, in texts")] = 1_024
    max_request_bytes: Annotated[PositiveInt, Doc("limit of a request body, in bytes")] = 2 * 2**20
    max_queue_tokens: Annotated[PositiveInt, Doc("limit of the queue, in tokens; beyond it requests get 429")] = 65_536
    request_timeout: Annotated[Seconds, Doc("seconds until an unanswered request gets 504")] = 30.0
    header_timeout: Annotated[Seconds, Doc("seconds in which the whole header of a request must arrive")] = 10.0
    chunk_timeout: Annotated[Seconds, Doc("seconds until the next bytes of a body must arrive")] = 10.0
    body_timeout: Annotated[Seconds, Doc("seconds in which the whole body of a request must arrive")] = 30.0
    write_timeout: Annotated[Seconds, Doc("seconds until a client must read more of an answer")] = 30.0
    idle_timeout: Annotated[Seconds, Doc("seconds that a connection may wait for its next request")] = 75.0
    max_header_bytes: Annotated[PositiveInt, Doc("limit of a request's header, in bytes")] = 16_384
    max_headers: Annotated[PositiveInt, Doc("limit of a request's header, in fields")] = 100
    max_connections: Annotated[PositiveInt, Doc("limit of open connections")] = 2_048
    max_connections_per_address: Annotated[PositiveInt, Doc("limit of open connections of one address")] = 1_024
    max_buffer_bytes: Annotated[
        PositiveInt, Doc("limit of the bodies of all unanswered requests together, and of all unread answers, in bytes")
    ] = 16 * 2**20
    cors_origin: Annotated[
        NonEmpty | None, Doc("origins whose pages may call the server, separated by spaces, or *; none by default")
    ] = None
    self_check_interval: Annotated[Seconds, Doc("seconds between two checks of the golden vectors")] = 60.0
    shutdown_delay: Annotated[
        float,
        Ge(0),
        Le(10**9),
        Doc("seconds after SIGTERM in which connections are still accepted and answered with 503"),
    ] = 1.0
    shutdown_timeout: Annotated[Seconds, Doc("seconds after SIGTERM until unanswered requests are dropped")] = 30.0


# Old name: new name.
RENAMED_OPTIONS = {
    "deadline": "request_timeout",
    "canary": "self_check_interval",
    "notice": "shutdown_delay",
    "drain": "shutdown_timeout",
}
