"""A client for any server that speaks TensorFlow Serving's gRPC protocol; it does not import TensorFlow.

    >>> from serving.client import Client
    >>> with Client("127.0.0.1:8500") as client:
    ...     client.predict("dense", {"x": np.float32([[1.0], [2.0]])})
    {'y': array([[3.], [5.]], dtype=float32)}

The same with asyncio:

    >>> async with AsyncClient("127.0.0.1:8500") as client:
    ...     await client.predict("dense", {"x": [[1.0], [2.0]]}, timeout=0.5)

As a command, `python -m serving.client --help`.
"""

from serving.client.async_client import AsyncClient
from serving.client.base import DEFAULT_RETRIES, DEFAULT_TIMEOUT_SECONDS
from serving.client.info import (
    DEFAULT_SIGNATURE,
    ClientError,
    ModelMetadata,
    ModelVersionStatus,
    SignatureInfo,
    TensorInfo,
    signature_info,
)
from serving.client.sync_client import Client

__all__ = [
    "DEFAULT_RETRIES",
    "DEFAULT_SIGNATURE",
    "DEFAULT_TIMEOUT_SECONDS",
    "AsyncClient",
    "Client",
    "ClientError",
    "ModelMetadata",
    "ModelVersionStatus",
    "SignatureInfo",
    "TensorInfo",
    "signature_info",
]
