"""Requests of TensorFlow Serving's protocol as calls of a graph: Predict, Classify, Regress, MultiInference.

Each is made of two halves around the graph: one checks a request and says what to feed and fetch, the other makes the
response from what was fetched. Between the halves somebody runs the graph: the batching runner for requests, the
loading thread for a model's warm-up.
"""
