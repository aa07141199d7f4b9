"""Status and metadata of a model as protobuf's JSON, printed as its C++ library does: every field, one space a level.

Reference:
    tensorflow_serving/model_servers/http_rest_api_util.cc
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.json_format import MessageToDict
from tensorflow_serving.apis import get_model_metadata_pb2

from serving.model_info import SIGNATURE_FIELD


def status_body(response: Any) -> bytes:
    """The answer to a status request.

    Args:
        response: A `GetModelStatusResponse`.
    """
    return _printed(response).encode()


def metadata_body(response: Any) -> bytes:
    """The answer to a metadata request: the parts in JSON, put together by hand as TensorFlow Serving does.

    Args:
        response: A `GetModelMetadataResponse` with the signatures.
    """
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[SIGNATURE_FIELD].Unpack(signatures)
    text = (
        f'{{\n"model_spec":{_printed(response.model_spec)},\n'
        f'"metadata": {{"signature_def": {_printed(signatures)}}}\n}}\n'
    )
    return text.encode()


def _printed(message: Any) -> str:
    value = MessageToDict(message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True)
    text = json.dumps(_in_order(message, value), indent=1, ensure_ascii=False)
    # Inside strings only: the printer makes its JSON safe to put into HTML.
    return text.replace("<", "\\u003c").replace(">", "\\u003e") + "\n"


def _in_order(message: Any, value: Any) -> Any:
    """The same dict with fields by number and map keys sorted; Python's printer puts unset fields last."""
    if not isinstance(value, dict) or not hasattr(message, "DESCRIPTOR"):
        return value
    ordered = {}
    for field in sorted(message.DESCRIPTOR.fields, key=lambda field: field.number):
        if field.name not in value:
            continue
        inner = value[field.name]
        if field.message_type is None:
            ordered[field.name] = inner
        elif field.message_type.GetOptions().map_entry:
            entries = getattr(message, field.name)
            # A map's keys are strings in JSON; only those of string keys are looked into.
            ordered[field.name] = {
                key: _in_order(entries[key], inner[key]) if key in entries else inner[key] for key in sorted(inner)
            }
        elif isinstance(inner, list):
            messages = getattr(message, field.name)
            ordered[field.name] = [_in_order(item, text) for item, text in zip(messages, inner, strict=True)]
        else:
            ordered[field.name] = _in_order(getattr(message, field.name), inner)
    return ordered if ordered else value
