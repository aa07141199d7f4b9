"""TensorFlow Serving's REST interface: HTTP, routes, JSON in and out."""
