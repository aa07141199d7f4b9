"""A load generator for gRPC and HTTP that costs little itself; `python -m serving.load_test --help`.

Example:
    >>> from serving.load_test import GrpcTarget, measure
    >>> measure(GrpcTarget("127.0.0.1:8500"), lambda: request, clients=64, seconds=5).percentile(99)
    12.3
"""

from serving.load_test.grpc_connection import PREDICT, GrpcTarget
from serving.load_test.http_connection import HttpTarget, http_request
from serving.load_test.measure import Result, Target, measure

__all__ = ["PREDICT", "GrpcTarget", "HttpTarget", "Result", "Target", "http_request", "measure"]
