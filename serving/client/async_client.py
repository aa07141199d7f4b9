"""The asyncio client: the same calls, awaited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from serving.client.base import DEFAULT_TIMEOUT_SECONDS, BaseClient
from serving.client.calls import Conversation, Pause, Result
from serving.client.info import ModelMetadata, ModelVersionStatus
from serving.client.requests import ModelSpec

if TYPE_CHECKING:
    import numpy as np


class AsyncClient(BaseClient):
    """A connection to one server, for one event loop; methods, arguments and errors are those of `Client`.

    Example:
        >>> async with AsyncClient("127.0.0.1:8500") as client:
        ...     answers = await asyncio.gather(*(client.predict("dense", {"x": [[x]]}) for x in range(100)))
    """

    async def __aenter__(self) -> AsyncClient:
        """The client itself."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Closes the connection."""
        await self.close()

    async def close(self) -> None:
        """Closes the connection; requests under way are cancelled."""
        if self._channel is not None:
            await self._channel.close()

    async def predict(
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
        """Asks a model; see `Client.predict`."""
        spec = ModelSpec(model, version, label, signature)
        return await self._run(self._calls.predict(spec, inputs, outputs, timeout, request_id))

    async def classify(
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
        """Asks a signature that classifies `tf.train.Example`s; see `Client.classify`."""
        spec = ModelSpec(model, version, label, signature)
        return await self._run(self._calls.classify(spec, examples, context, timeout, request_id))

    async def regress(
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
        """Asks a signature that gives a number for each `tf.train.Example`; see `Client.regress`."""
        spec = ModelSpec(model, version, label, signature)
        return await self._run(self._calls.regress(spec, examples, context, timeout, request_id))

    async def metadata(
        self,
        model: str,
        version: int | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        *,
        label: str | None = None,
        request_id: str | None = None,
    ) -> ModelMetadata:
        """What a model's signatures take and give, and which version answers."""
        return await self._run(self._calls.metadata(ModelSpec(model, version, label), timeout, request_id))

    async def status(
        self,
        model: str,
        version: int | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        *,
        request_id: str | None = None,
    ) -> list[ModelVersionStatus]:
        """The states of a model's versions (None = all), highest first."""
        return await self._run(self._calls.status(ModelSpec(model, version), timeout, request_id))

    async def reload_config(
        self, config: str, timeout: float = DEFAULT_TIMEOUT_SECONDS, *, request_id: str | None = None
    ) -> None:
        """Gives the server another configuration; see `Client.reload_config`."""
        await self._run(self._calls.reload_config(config, timeout, request_id))

    async def _run(self, conversation: Conversation[Result]) -> Result:
        """Holds a conversation: sends its attempts, sleeps its pauses."""
        import asyncio

        import grpc
        import grpc.aio

        if self._channel is None:
            self._channel = self._open(grpc.aio)  # here, because it belongs to the loop that runs
        try:
            step = next(conversation)
            while True:
                response = failure = None
                try:
                    if isinstance(step, Pause):
                        await asyncio.sleep(step.seconds)
                    else:
                        response = await self._call(step)(step.request, timeout=step.timeout, metadata=step.headers)
                except grpc.RpcError as error:
                    failure = error
                step = conversation.send(response) if failure is None else conversation.throw(failure)
        except StopIteration as end:
            return end.value
