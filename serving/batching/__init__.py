"""How requests become runs of graphs: queues, batches, threads."""
