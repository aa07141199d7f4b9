"""Sources: where raw examples come from, one module for each value of `data.source`."""
