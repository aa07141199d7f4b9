"""What a client can ask about a model: its signatures (GetModelMetadata) and its versions (GetModelStatus)."""

from __future__ import annotations

from typing import Any

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.core import find_servable
from serving.errors import Code, ServingError, status_text
from serving.inference.call import check_model_spec
from serving.manager import Manager

SIGNATURE_FIELD = "signature_def"


def get_model_metadata(manager: Manager, request: Any) -> Any:
    """Answers a GetModelMetadataRequest with the signatures of a version.

    Args:
        manager: Where the models are.
        request: A `GetModelMetadataRequest`; its only supported metadata_field is `signature_def`.

    Returns:
        A `GetModelMetadataResponse` with name and version (no signature name) and a packed `SignatureDefMap`.

    Raises:
        ServingError: One of the contract's errors.
    """
    if not request.HasField("model_spec"):
        raise ServingError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
    if not request.metadata_field:
        raise ServingError(Code.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field")
    for name in request.metadata_field:
        if name != SIGNATURE_FIELD:
            raise ServingError(Code.INVALID_ARGUMENT, f"Metadata field {name} is not supported")
    with find_servable(manager, check_model_spec(request)) as servable:
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for key, signature in servable.model.signatures.items():
            signatures.signature_def[key].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        response.metadata[SIGNATURE_FIELD].Pack(signatures)
        return response


def get_model_status(manager: Manager, request: Any) -> Any:
    """Answers a GetModelStatusRequest with the states of one version or of all, highest first; labels are ignored.

    Args:
        manager: Where the models are.
        request: A `GetModelStatusRequest`.

    Returns:
        A `GetModelStatusResponse`; a version that failed to load carries its error.

    Raises:
        ServingError: No spec, or nothing is known of that model or version.
    """
    if not request.HasField("model_spec"):
        raise ServingError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
    spec = request.model_spec
    statuses = manager.statuses(spec.name)
    if spec.WhichOneof("version_choice") == "version":
        number = spec.version.value
        statuses = [status for status in statuses if status.version == number]
        if not statuses:
            raise ServingError(Code.NOT_FOUND, f"Could not find version {number} of model {spec.name}")
    if not statuses:
        raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {spec.name}")
    response = get_model_status_pb2.GetModelStatusResponse()
    for status in statuses:
        row = response.model_version_status.add(version=status.version, state=int(status.state))
        row.status.error_code = int(status.error.code) if status.error else 0
        row.status.error_message = status_text(status.error.message) if status.error else ""
    return response
