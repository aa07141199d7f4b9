"""A server that speaks TensorFlow Serving's protocol, and its client.

It receives a directory of SavedModel versions and nothing else: this package imports neither `tfbigmodel` nor
`pipelines`, and no Keras.

Importing it costs nothing: TensorFlow and gRPC are imported where they are used, so that `--help` answers at once.
"""
