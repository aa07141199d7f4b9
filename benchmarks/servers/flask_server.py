"""The model behind Flask: `gunicorn --worker-class gthread --threads 64 flask_server:app`."""

from flask import Flask, request
from saved_model import load

app = Flask(__name__)
model = load()


@app.post("/predict")
def predict():
    """Answers `{"instances": […]}`."""
    return {"predictions": model(request.get_json()["instances"])}
