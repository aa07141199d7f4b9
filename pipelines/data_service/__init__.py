"""tf.data service: training batches are made by other processes, and come as they would without them."""
