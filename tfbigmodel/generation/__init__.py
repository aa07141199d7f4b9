"""Writing texts with a trained model, in one graph: what it writes next, by which rule, until when.

- `decoding`: a model as a function from a token to the logits of the next one, with a cache of keys and values;
- `sampling`: the rules for a single next token;
- `search`: the loops, token by token or with several beams;
- `serving`: signatures from text to text.
"""
