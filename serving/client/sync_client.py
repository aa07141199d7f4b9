"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from serving.client.base import DEFAULT_TIMEOUT_SECONDS, BaseClient
from serving.client.calls import Conversation, Pause, Result
from serving.client.info import ModelMetadata, ModelVersionStatus
from serving.client.requests import ModelSpec

# numpy, gRPC and the protocol's classes are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    import numpy as np


class Client(BaseClient):
    """A connection to one server; safe to use from many threads. Closes as a context manager or with `close`.

    Every call takes these too:
        version: None = the highest available.
        label: The version that the server's configuration gives this name, in place of `version`.
        timeout: Seconds for the whole call with its retries; the server is told what is left of them.
        request_id: Sent as `x-request-id`, to find the request in the server's access log.
    and raises ClientError when the server cannot be reached or refuses; its `code` says which.
    """

    def __enter__(self) -> Client:
        """The client itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the connection."""
        self.close()

    def close(self) -> None:
        """Closes the connection; requests under way fail."""
        self._channel.close()

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        signature: str | None = None,
        version: int | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        *,
        label: str | None = None,
        outputs: Sequence[str] = (),
        request_id: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Asks a model.

        Args:
            model: Its name on the server.
            inputs: `{input name: array (batch_size, …)}`. Arrays are sent with the dtype they have (text as UTF-8);
                lists and scalars are converted to the dtype that the model's metadata names.
            signature: None = `serving_default`.
            version: See the class, as for the rest.
            timeout: Seconds.
            label: In place of a version.
            outputs: The names of those wanted; empty = all.
            request_id: For the server's log.

        Returns:
            `{output name: array}`; strings as an object array of bytes.
        """
        spec = ModelSpec(model, version, label, signature)
        return self._run(self._calls.predict(spec, inputs, outputs, timeout, request_id))

    def classify(
        self,
        model: str,
        examples: Sequence[Mapping[str, Any]],
        signature: str | None = None,
        version: int | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        *,
        label: str | None = None,
        context: Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Asks a signature that classifies `tf.train.Example`s.

        Args:
            model: Its name on the server.
            examples: `{feature name: value or list of values}` for each; text, bytes, whole numbers or decimals.
            signature: None = `serving_default`.
            version: See the class, as for the rest.
            timeout: Seconds.
            label: In place of a version.
            context: Features that every example has.
            request_id: For the server's log.

        Returns:
            For each example `(label, score)` of every class.
        """
        spec = ModelSpec(model, version, label, signature)
        return self._run(self._calls.classify(spec, examples, context, timeout, request_id))

    def regress(
        self,
        model: str,
        examples: Sequence[Mapping[str, Any]],
        signature: str | None = None,
        version: int | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        *,
        label: str | None = None,
        context: Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> list[float]:
        """Asks a signature that gives a number for each `tf.train.Example`; arguments as for `classify`."""
        spec = ModelSpec(model, version, label, signature)
        return self._run(self._calls.regress(spec, examples, context, timeout, request_id))

    def metadata(
        self,
        model: str,
        version: int | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        *,
        label: str | None = None,
        request_id: str | None = None,
    ) -> ModelMetadata:
        """What a model's signatures take and give, and which version answers."""
        return self._run(self._calls.metadata(ModelSpec(model, version, label), timeout, request_id))

    def status(
        self,
        model: str,
        version: int | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        *,
        request_id: str | None = None,
    ) -> list[ModelVersionStatus]:
        """The states of a model's versions (None = all), highest first."""
        return self._run(self._calls.status(ModelSpec(model, version), timeout, request_id))

    def reload_config(
        self, config: str, timeout: float = DEFAULT_TIMEOUT_SECONDS, *, request_id: str | None = None
    ) -> None:
        """Gives the server another configuration; returns when the models it names are available.

        Args:
            config: The text of a `--model_config_file`; models that it does not name are unloaded.
            timeout: Seconds; loading may take longer than the default.
            request_id: For the server's log.
        """
        self._run(self._calls.reload_config(config, timeout, request_id))

    def _connect(self) -> None:
        import grpc

        self._channel = self._open(grpc)

    def _run(self, conversation: Conversation[Result]) -> Result:
        """Holds a conversation: sends its attempts, sleeps its pauses."""
        import grpc

        try:
            step = next(conversation)
            while True:
                response = failure = None
                try:
                    if isinstance(step, Pause):
                        time.sleep(step.seconds)
                    else:
                        response = self._call(step)(step.request, timeout=step.timeout, metadata=step.headers)
                except grpc.RpcError as error:
                    failure = error
                step = conversation.send(response) if failure is None else conversation.throw(failure)
        except StopIteration as end:
            return end.value
