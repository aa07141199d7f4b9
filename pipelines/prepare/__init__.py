"""Preparing large corpora and tables on Apache Beam: cleaned, each content once, divided, shuffled, in shards."""
