"""TF 1 SavedModels that classify and regress: TensorFlow Serving's half plus two, and one with every odd signature."""

import pytest

from serving.engine import EngineOptions, load_model

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
PREDICT = "tensorflow/serving/predict"


def save(session, directory, signatures):
    """Writes a TF 1 SavedModel; signatures are `{key: (method name, inputs, outputs)}` with tensors by name."""
    from tensorflow.compat import v1

    def infos(tensors):
        return {name: v1.saved_model.build_tensor_info(tensor) for name, tensor in tensors.items()}

    builder = v1.saved_model.Builder(str(directory))
    builder.add_meta_graph_and_variables(
        session,
        [v1.saved_model.tag_constants.SERVING],
        {
            key: v1.saved_model.build_signature_def(infos(inputs), infos(outputs), method)
            for key, (method, inputs, outputs) in signatures.items()
        },
    )
    builder.save()


def save_half_plus_two(directory):
    """y = x / 2 + 2 and y2 = x / 2 + 3 from Examples with x; y3 = x2 / 2 + 3; the same signatures as the original."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        slope, two, three = (
            v1.get_variable(name, initializer=value) for name, value in zip("abc", (0.5, 2.0, 3.0), strict=True)
        )
        examples = v1.placeholder(tf.string, [None], name="tf_example")
        one = tf.io.FixedLenFeature([1], tf.float32)
        zero = tf.io.FixedLenFeature([1], tf.float32, [0.0])
        features = tf.io.parse_example(examples, {"x": one, "x2": zero})
        x, x2 = tf.identity(features["x"], "x"), tf.identity(features["x2"], "x2")
        y, y2, y3 = slope * x + two, slope * x + three, slope * x2 + three
        session.run(v1.global_variables_initializer())
        inputs = {"inputs": examples}
        save(
            session,
            directory,
            {
                "serving_default": (PREDICT, {"x": x}, {"y": y}),
                "regress_x_to_y": (REGRESS, inputs, {"outputs": y}),
                "regress_x_to_y2": (REGRESS, inputs, {"outputs": y2}),
                "regress_x2_to_y3": (REGRESS, {"inputs": x2}, {"outputs": y3}),
                "classify_x_to_y": (CLASSIFY, inputs, {"scores": y}),
            },
        )


def save_odd(directory):
    """Answers with each Example's features `class` and `score`, through signatures that are right or wrong."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], name="examples")
        numbers = v1.placeholder(tf.float32, [None, 1], name="numbers")
        several = {"dtype": None, "shape": [], "allow_missing": True}
        text, number = ({**several, "dtype": dtype} for dtype in (tf.string, tf.float32))
        features = tf.io.parse_example(
            examples,
            {"class": tf.io.FixedLenSequenceFeature(**text), "score": tf.io.FixedLenSequenceFeature(**number)},
        )
        classes, scores = features["class"], features["score"]
        flat = scores[:, 0]
        with tf.control_dependencies([tf.debugging.Assert(False, ["Run totally failed"])]):
            failing = tf.identity(scores)
        inputs = {"inputs": examples}
        both = {"classes": classes, "scores": scores}
        classify = {
            "serving_default": both,
            "output_plus_one": {**both, "scores": scores + 1},
            "classes_only": {"classes": classes},
            "scores_only": {"scores": scores},
            "scores_and_more": {"scores": scores, "more": numbers},
            "rank_3": {**both, "scores": scores[..., None]},
            "classes_rank_1": {"classes": classes[:, 0]},
            "double_scores": {**both, "scores": tf.cast(scores, tf.float64)},
            "number_classes": {"classes": scores},
            "one_row_of_classes": {**both, "classes": classes[:1]},
            "one_row_of_scores": {**both, "scores": scores[:1]},
            "uneven": {**both, "scores": scores[:, :1]},
            "three_outputs": {**both, "more": scores},
            "no_outputs_known": {"z": scores},
            "failing": {"scores": failing},
        }
        regress = {
            "regress": {"outputs": flat},
            "regress_plus_one": {"outputs": flat[:, None] + 1},
            "regress_rank_3": {"outputs": scores[:, None]},
            "regress_two_columns": {"outputs": tf.stack([flat, flat], 1)},
            "regress_one_row": {"outputs": flat[:1]},
            "regress_text": {"outputs": classes[:, 0]},
            "regress_scalar": {"outputs": tf.reduce_sum(flat)},
            "regress_two_outputs": {"outputs": flat, "more": flat},
            "regress_no_outputs": {"z": flat},
            "regress_failing": {"outputs": failing},
        }
        signatures = {key: (CLASSIFY, inputs, outputs) for key, outputs in classify.items()}
        signatures |= {key: (REGRESS, inputs, outputs) for key, outputs in regress.items()}
        signatures |= {
            "two_inputs": (CLASSIFY, {**inputs, "x": numbers}, both),
            "wrong_input": (CLASSIFY, {"x": examples}, both),
            "number_input": (CLASSIFY, {"inputs": numbers}, {"scores": numbers * 2}),
            "tensorflow_2": (PREDICT, inputs, both),
            "regress_two_inputs": (REGRESS, {**inputs, "x": numbers}, {"outputs": flat}),
            "regress_wrong_input": (REGRESS, {"x": examples}, {"outputs": flat}),
            "regress_number_input": (REGRESS, {"inputs": numbers}, {"outputs": numbers * 2}),
            "regress_tensorflow_2": (PREDICT, inputs, {"outputs": flat}),
        }
        save(session, directory, signatures)


@pytest.fixture(scope="session")
def exported_with_examples(tmp_path_factory):
    """A folder with the version folders `half_plus_two` and `odd`."""
    folder = tmp_path_factory.mktemp("examples")
    save_half_plus_two(folder / "half_plus_two")
    save_odd(folder / "odd")
    return folder


@pytest.fixture(scope="session")
def half_plus_two(exported_with_examples):
    model = load_model(exported_with_examples / "half_plus_two")
    yield model
    model.close()


@pytest.fixture(scope="session")
def odd(exported_with_examples):
    model = load_model(exported_with_examples / "odd")
    yield model
    model.close()


@pytest.fixture(scope="session")
def strict(exported_with_examples):
    """As `odd`, with method names checked."""
    model = load_model(exported_with_examples / "odd", EngineOptions(check_method_names=True))
    yield model
    model.close()


@pytest.fixture(scope="session")
def answer():
    """Runs a call in this thread: `answer(regress_call, model, request)`, as version 123 of `test_model`."""

    def run_call(make_call, model, request):
        run, respond = make_call("test_model", 123, model, request)
        return respond(model.run(run.feeds, run.fetches, run.values))

    return run_call


@pytest.fixture(scope="session")
def example():
    """Makes an Example: `example(x=[2.0], text=[b"a"], count=[1])`."""
    import tensorflow as tf

    def make(**features):
        message = tf.train.Example()
        for name, values in features.items():
            feature = message.features.feature[name]
            kinds = {float: feature.float_list, int: feature.int64_list, bytes: feature.bytes_list}
            kinds[type(values[0])].value.extend(values)
        return message

    return make
