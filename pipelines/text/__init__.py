"""Texts: cleaning, tokenisation, vocabularies, masking, pairs of sentences."""
