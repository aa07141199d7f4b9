"""The model behind FastAPI: `uvicorn fastapi_server:app`."""

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from saved_model import load

app = FastAPI()
model = load()


class PredictRequest(BaseModel):
    """The body of a request."""

    instances: list[Any]


@app.post("/predict")
def predict(request: PredictRequest) -> JSONResponse:
    """Answers in one of FastAPI's threads."""
    return JSONResponse({"predictions": model(request.instances)})


@app.post("/predict_on_loop")
async def predict_on_loop(request: PredictRequest) -> JSONResponse:
    """Answers on the event loop: no way to a thread and back, but one request after the other."""
    return JSONResponse({"predictions": model(request.instances)})
