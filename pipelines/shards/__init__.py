"""Files of labelled examples that may be larger than memory: their formats, their order, and how they are written."""
