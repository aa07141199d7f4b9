"""Time of a token that the text generator writes, with and without the cache of keys and values.

    python benchmarks/text_generation.py [--tokens 200] [--rounds 3]

The configured network (512 wide, 2 layers, 8 heads) with random weights and 4,000 tokens writes greedily, from prompts
of 8 tokens; the end of text is not among what it may write, so that all texts have the full length. Without the cache
every token is a forward pass of the whole text so far. Prints the least time of the rounds, which alternate, and checks
that both write the same tokens.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

VOCABULARY_SIZE = 4000
PROMPT_LENGTH = 8


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=200, help="tokens to write")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="float32", help="or mixed_bfloat16")
    arguments = parser.parse_args()

    import numpy as np
    import tensorflow as tf

    from pipelines.data import DatasetInfo, TextInfo
    from tfbigmodel.chapters.text_generator import TextGeneratorConfig, build
    from tfbigmodel.generation.decoding import cached_decoder, uncached_decoder
    from tfbigmodel.generation.sampling import Sampling
    from tfbigmodel.generation.search import seen_tokens, special_tokens, write

    special_ids = {"pad": 0, "unknown": 1, "start": 2, "end": 3, "mask": 4}
    inputs = ("token_ids", "padding_mask")
    text = TextInfo(VOCABULARY_SIZE, PROMPT_LENGTH + arguments.tokens, special_ids, mean_tokens=100.0)
    info = DatasetInfo("language_model", dict.fromkeys(inputs, (None,)), dict.fromkeys(inputs, "int32"), {}, text=text)
    model = build(TextGeneratorConfig(chapter="text_generator"), info, arguments.precision, seed=1)
    # With the initial weights the likeliest token is the last one again; larger ones give texts that vary.
    for weight in model.trainable_variables:
        weight.assign(weight * 3.0 if weight.path.endswith(("kernel", "embeddings")) else weight)
    tokens = special_tokens(special_ids, VOCABULARY_SIZE)
    tokens = tokens._replace(forbidden=tokens.forbidden | (tf.range(VOCABULARY_SIZE) == tokens.end))

    def writer(decoder):
        @tf.function(autograph=False)
        def written(prompt):
            batch_size = tf.shape(prompt["token_ids"])[0]
            values = Sampling(arguments.tokens, 0.0, 0, 1.0, 1.0, 1, tf.constant(0, tf.int64))
            sampling = Sampling(*(tf.fill([batch_size], value) for value in values))
            seen = seen_tokens(prompt["token_ids"], prompt["padding_mask"], VOCABULARY_SIZE)
            uniform = tf.zeros([batch_size, arguments.tokens])
            return write(decoder(model, prompt, tf.constant(arguments.tokens)), seen, sampling, tokens, uniform)

        return written

    writers = {"with cache": writer(cached_decoder), "without": writer(uncached_decoder)}
    print(f"{'batch':>5}{'':4}{'':12}{'ms/step':>9}{'ms/token':>10}{'tokens/s':>10}")
    for batch_size in (1, 8):
        random = np.random.default_rng(batch_size)
        token_ids = tf.constant(random.integers(5, VOCABULARY_SIZE, (batch_size, PROMPT_LENGTH)), tf.int32)
        prompt = {"token_ids": token_ids, "padding_mask": tf.ones_like(token_ids)}
        same = [function(prompt).token_ids.numpy() for function in writers.values()]
        seconds = dict.fromkeys(writers, float("inf"))
        for _ in range(arguments.rounds):
            for name, function in writers.items():
                started = time.perf_counter()
                function(prompt).token_ids.numpy()
                seconds[name] = min(seconds[name], time.perf_counter() - started)
        for name, value in seconds.items():
            step = 1000 * value / arguments.tokens
            print(
                f"{batch_size:>5}    {name:12}{step:>9.2f}{step / batch_size:>10.2f}{1000 * batch_size / step:>10.0f}"
            )
        agree = (same[0] == same[1]).mean()
        ratio = seconds["without"] / seconds["with cache"]
        print(f"{'':9}{ratio:.1f} times as fast; {agree:.1%} of the tokens agree, {len(np.unique(same[0]))} different")


if __name__ == "__main__":
    main()
