"""The model behind LitServe: `python litserve_server.py --port 8000 --max_batch_size 64 --batch_timeout 0.002`."""

import argparse
from typing import Any

import litserve


class ModelApi(litserve.LitAPI):
    """Rows in, rows out; with batching the requests of a batch are run as one."""

    def setup(self, device: str) -> None:
        """Loads the model in the worker's process."""
        from saved_model import load

        self.model = load()

    def decode_request(self, request: dict[str, Any], **_: Any) -> list[Any]:
        """The rows of a request."""
        return request["instances"]

    def predict(self, rows: list[Any], **_: Any) -> list[Any]:
        """Runs the model on one request's rows, or on a list of them."""
        if self.max_batch_size == 1:
            return self.model(rows)
        answers = iter(self.model([row for request in rows for row in request]))
        return [[next(answers) for _ in request] for request in rows]

    def encode_response(self, output: list[Any], **_: Any) -> dict[str, Any]:
        """The answer's body."""
        return {"predictions": output}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max_batch_size", type=int, default=1)
    parser.add_argument("--batch_timeout", type=float, default=0.0)
    arguments = parser.parse_args()
    api = ModelApi(max_batch_size=arguments.max_batch_size, batch_timeout=arguments.batch_timeout)
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=arguments.port, log_level="warning", generate_client_file=False)
