"""Images: decoding in the graph and the preprocessing that training and serving share."""
