"""The corpus source: from files to batches, kept-out texts, the cache, resuming, shares, and memory."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import pipelines
from pipelines.config import CorpusConfig, TableConfig
from pipelines.data import SPLITS
from pipelines.errors import UserError
from pipelines.text.corpus_data import CorpusData
from pipelines.text.preprocess import TextPreprocessor

WORDS = ["书", "好看", "物流很快", "质量一般", "不推荐", "屏幕清晰", "房间干净", "服务差", "good", "read it"]
TASKS = ["masked_language_model", "language_model", "sequence_to_sequence"]


def documents(num: int = 240, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        "".join(WORDS[w] + "，。！"[rng.integers(3)] for w in rng.integers(0, len(WORDS), rng.integers(1, 9))) + f"{n}"
        for n in range(num)
    ]


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., CorpusData]:
    def load_corpus(task: str = "masked_language_model", texts: list[str] | None = None, **values: Any) -> CorpusData:
        path = tmp_path / "corpus.txt"
        if texts is not None or not path.exists():
            path.write_text("\n\n".join(documents() if texts is None else texts))
        known = {
            "source": "corpus",
            "task": task,
            "data_dir": tmp_path,
            "cache_dir": tmp_path / "cache",
            "parts": [{"path": "corpus.txt"}],
            "batch_size": 8,
            "bucket_batches": 4,
            "tokenizer": {"sequence_length": 24} | values.pop("tokenizer", {}),
        }
        data = pipelines.load(CorpusConfig.model_validate(known | values))
        assert isinstance(data, CorpusData)
        return data

    return load_corpus


def arrays(element: tuple) -> dict[str, np.ndarray]:
    """Features and labels of an element, by name."""
    features, labels = element[:2]
    return {
        f"{kind} {name}": np.asarray(tensor)
        for kind, part in (("x", features), ("y", labels))
        for name, tensor in part.items()
    }


def same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def trimmed(batches: list[dict[str, np.ndarray]]) -> dict[str, list[list[Any]]]:
    """Rows of several elements without their padding, which differs."""
    rows: dict[str, list[list[Any]]] = {}
    for batch in batches:
        for name, array in batch.items():
            for row in np.atleast_2d(array.T).T.tolist():
                while row and row[-1] == 0:
                    row.pop()
                rows.setdefault(name, []).append(row)
    return rows


def context(worker: int, workers: int, replicas: int) -> tf.distribute.InputContext:
    return tf.distribute.InputContext(workers, worker, replicas)


def tokens_of(data: CorpusData, split: str) -> int:
    return sum(int(np.asarray(labels["weights"]).sum()) for _, labels, _ in data.evaluation(split))


def test_what_a_model_needs_to_know(load: Callable) -> None:
    data = load()
    assert data.info.inputs == {
        "token_ids": (None,),
        "segment_ids": (None,),
        "padding_mask": (None,),
        "mask_positions": (4,),
    }
    assert set(data.info.input_dtypes.values()) == {"int32"}
    assert data.info.task == "masked_language_model"
    assert data.info.text.vocabulary_size == len(data.preprocess.tokenizer.vocabulary)
    assert data.info.text.sequence_length == 24
    assert data.info.text.special_ids["mask"] == 4
    assert data.steps_per_epoch == data.info.counts["train"] // 8
    assert data.info == type(data.info).from_json(data.info.to_json())
    masked = np.mean(
        [np.asarray(labels["masked_weights"]).sum(1).mean() for e in range(3) for _, labels in data.train(e)]
    )
    assert abs(data.info.text.mean_tokens - masked) < 0.3


@pytest.mark.parametrize("task", TASKS)
def test_batches_of_every_task(load: Callable, task: str) -> None:
    data = load(task)
    for features, labels in data.train():
        assert features.keys() == data.info.inputs.keys()
        for name, tensor in features.items():
            assert tensor.dtype == tf.int32
            assert tensor.shape[0] == 8
            assert data.info.inputs[name] in ((None,), tuple(tensor.shape[1:]))
        width = features["token_ids"].shape[1]
        assert width % 8 == 0
        assert width == -(-int(tf.reduce_max(tf.reduce_sum(features["padding_mask"], 1))) // 8) * 8
        if task == "masked_language_model":
            assert {name: tuple(t.shape) for name, t in labels.items()} == {
                "masked_ids": (8, 4),
                "masked_weights": (8, 4),
                "is_next": (8,),
            }
        else:
            assert {name: tuple(t.shape) for name, t in labels.items()} == {
                "token_ids": (8, width),
                "weights": (8, width),
                "characters": (8,),
            }
            assert np.array_equal(labels["weights"], tf.cast(features["padding_mask"], tf.float32))


@pytest.mark.parametrize("task", TASKS)
def test_any_place_is_the_same_as_in_a_run_without_a_break(load: Callable, task: str) -> None:
    data = load(task)
    whole = [arrays(element) for element in data.train(0, epochs=3)]
    per_epoch = data.steps_per_epoch
    assert len(whole) == 3 * per_epoch
    for epoch, step in ((0, 1), (1, 0), (1, per_epoch - 1), (2, 5)):
        again = [arrays(element) for element in load(task).train(epoch, step, epochs=3 - epoch)]
        assert len(again) == 3 * per_epoch - epoch * per_epoch - step
        for one, other in zip(again, whole[epoch * per_epoch + step :], strict=True):
            assert same(one, other)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("bucket_batches", [0, 4])
def test_two_workers_have_the_batch_of_one(load: Callable, task: str, bucket_batches: int) -> None:
    data = load(task, bucket_batches=bucket_batches)
    whole = [arrays(element) for element in data.train(1)]
    shares = [[arrays(element) for element in data.train(1, input_context=context(w, 2, 4))] for w in range(2)]
    for step, batch in enumerate(whole):
        together = [share[2 * step + replica] for share in shares for replica in range(2)]
        assert trimmed(together) == trimmed([batch])


def test_epochs_show_every_document_with_other_pairs_and_masks(load: Callable) -> None:
    data = load(batch_size=1, bucket_batches=0)
    first, second = ([arrays(element) for element in data.train(epoch)] for epoch in range(2))
    assert len(first) == data.info.counts["train"]
    shown = sorted(str(trimmed([batch])["x token_ids"]) for batch in first)
    assert shown != sorted(str(trimmed([batch])["x token_ids"]) for batch in second)
    # The seed makes other ones too.
    other = [arrays(element) for element in load(batch_size=1, bucket_batches=0, shuffle_seed=3).train()]
    assert shown != sorted(str(trimmed([batch])["x token_ids"]) for batch in other)


def test_an_epoch_of_windows_shows_every_one_once(load: Callable) -> None:
    data = load("language_model", batch_size=1, bucket_batches=3)
    shown = [str(trimmed([arrays(element)])["x token_ids"]) for element in data.train(4)]
    again = [str(trimmed([arrays(element)])["x token_ids"]) for element in data.train(5)]
    assert shown != again
    assert sorted(shown) == sorted(again)
    plain = [
        str(trimmed([arrays(element)])["x token_ids"])
        for element in load("language_model", batch_size=1, shuffle=False).train()
    ]
    assert sorted(plain) == sorted(shown)


def test_batches_are_of_similar_length(load: Callable) -> None:
    def padding(bucket_batches: int) -> float:
        data = load("language_model", bucket_batches=bucket_batches)
        masks = [np.asarray(features["padding_mask"]) for features, _ in data.train()]
        return 1 - sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks)

    assert padding(20) < 0.7 * padding(0)


@pytest.mark.parametrize("task", TASKS)
def test_evaluation_is_the_same_every_time(load: Callable, task: str) -> None:
    data = load(task, shuffle_seed=1)
    first = [arrays(element) for element in data.evaluation("test")]
    again = [arrays(element) for element in load(task, shuffle_seed=2).test()]
    assert all(same(one, other) for one, other in zip(first, again, strict=True))
    weights = np.concatenate([np.asarray(weight) for *_, weight in data.evaluation("test")])
    assert weights.tolist() == [1.0] * data.info.counts["test"]


def test_the_first_batches_of_an_evaluation_are_a_sample(load: Callable) -> None:
    """Training splits are measured by their first batches: these must not be the shortest texts."""
    data = load("language_model", [text for text in documents(300) for text in (text, text * 2)], batch_size=4)
    lengths = [float(tf.reduce_mean(labels["characters"])) for _, labels, _ in data.evaluation("train")]
    first = lengths[: len(lengths) // 4]
    assert abs(np.mean(first) - np.mean(lengths)) < 0.5 * np.std(lengths)
    assert np.std(lengths) > 1.0


@pytest.mark.parametrize("task", TASKS)
def test_evaluation_is_filled_up_for_replicas(load: Callable, task: str) -> None:
    data = load(task)
    whole = trimmed([arrays(element) for element in data.validation()])
    elements = [list(data.validation(context(w, 2, 2))) for w in range(2)]
    rows: dict[str, list[Any]] = {name: [] for name in whole}
    total = 0
    for step in range(len(elements[0])):
        for worker in range(2):
            element = elements[worker][step]
            weight = np.asarray(element[2])
            assert weight.shape == (4,)
            total += int(weight.sum())
            for name, part in trimmed([{n: a[weight > 0] for n, a in arrays(element).items()}]).items():
                rows[name] += part
    assert total == data.info.counts["validation"]
    assert rows == whole


def test_every_character_of_the_split_is_counted(load: Callable) -> None:
    texts = documents()
    for kind in ("characters", "words", "wordpiece"):
        if kind == "wordpiece":
            pytest.importorskip("keras_hub")
        data = load("language_model", texts, tokenizer={"kind": kind})
        total = sum(int(tf.reduce_sum(labels["characters"])) for s in SPLITS for _, labels, _ in data.evaluation(s))
        assert total == sum(map(len, texts))
        assert sum(len(text) for split in SPLITS for text in data.texts(split)) == total


def test_the_ids_are_the_tokenizers(load: Callable) -> None:
    texts = documents()
    for kind in ("characters", "words"):
        data = load("language_model", texts, tokenizer={"kind": kind, "sequence_length": 256})
        tokenizer = data.preprocess.tokenizer
        expected = sorted(
            row.numpy().tolist() for split in SPLITS for row in tokenizer(tf.constant(list(data.texts(split))))
        )
        found = []
        for split in SPLITS:
            for features, labels, _ in data.evaluation(split):
                for row, weights in zip(labels["token_ids"].numpy(), labels["weights"].numpy(), strict=True):
                    found.append(row[weights > 0].tolist()[:-1])  # without the end
                assert (features["token_ids"][:, 0] == tokenizer.special_ids["start"]).numpy().all()
        assert sorted(found) == expected
    assert sorted(text for split in SPLITS for text in data.texts(split)) == sorted(texts)


def test_pairs_are_of_one_document_or_of_two(load: Callable) -> None:
    """In text: positives stand like that in a document, negatives' second parts in another one."""
    data = load(masking={"masked": 0.0, "random": 0.0}, tokenizer={"sequence_length": 64, "min_count": 1})
    vocabulary = data.preprocess.tokenizer.vocabulary
    corpus = list(data.texts("train"))
    labels_seen = []
    for features, labels in data.train():
        for ids, segments, mask, is_next in zip(
            features["token_ids"].numpy(), features["segment_ids"].numpy(), features["padding_mask"].numpy(),
            labels["is_next"].numpy(), strict=True,
        ):  # fmt: skip
            real = ids[mask > 0]
            first = "".join(vocabulary[i] for i in real[segments[mask > 0] == 0][1:-1])
            second = "".join(vocabulary[i] for i in real[segments[mask > 0] == 1][:-1])
            assert any(second in text for text in corpus)
            if is_next:
                assert any(first + second in text for text in corpus)
            labels_seen.append(is_next)
    assert 0.3 < np.mean(labels_seen) < 0.7


def test_the_preprocessor_serves_the_same_ids(load: Callable, tmp_path: Path) -> None:
    for task, packing in zip(TASKS, ("bert", "prompt", "bert_prompt"), strict=True):
        preprocess = load(task).preprocess
        assert isinstance(preprocess, TextPreprocessor)
        assert preprocess.packing == packing
        folder = tmp_path / task
        folder.mkdir()
        preprocess.save(folder)
        text = {"text": tf.constant(["好看。书！"])}
        assert same(
            {k: v.numpy() for k, v in preprocess(text).items()},
            {k: v.numpy() for k, v in pipelines.load_preprocessor(folder)(text).items()},
        )


# --- What is left out ---


def table(tmp_path: Path, texts: list[str], name: str = "held.csv") -> dict[str, Any]:
    rows = "".join(f'"{text}",{"ab"[n % 2]}\n' for n, text in enumerate(texts))
    (tmp_path / name).write_text(f"review,label\n{rows}")
    return {"source": "table", "data_dir": str(tmp_path), "path": name, "text": "review", "label": "label"}


def test_texts_of_other_runs_are_kept_out(load: Callable, tmp_path: Path) -> None:
    texts = documents()
    other = table(tmp_path, [*texts[:100], *(f"别的{n}" for n in range(50))]) | {"batch_size": 8}
    held = pipelines.load(TableConfig.model_validate(other | {"data_dir": tmp_path}))
    out = {t.decode() for split in ("validation", "test") for t in held.examples(split).features["text"]}
    data = load("language_model", texts, keep_out=[{"data": other}])
    left = {text for split in SPLITS for text in data.texts(split)}
    assert left == set(texts) - out
    assert data.info.text.cleaning["kept_out"] == len(set(texts) & out) > 0
    everything = load("language_model", keep_out=[{"data": other, "splits": ["train", "validation", "test"]}])
    assert everything.info.text.cleaning["kept_out"] == 100


def test_they_are_compared_after_cleaning(load: Callable, tmp_path: Path) -> None:
    texts = documents(60)
    other = table(tmp_path, [f"<b>{text}</b>" for text in texts[:20]]) | {"batch_size": 8, "cleaning": {"html": False}}
    marked = [f"  {text[:1]}\u200b<i>{text[1:]}</i>" for text in texts]
    keep_out = [{"data": other, "splits": ["train", "validation", "test"]}]
    data = load("language_model", marked, keep_out=keep_out, cleaning={"html": True})
    assert data.info.text.cleaning["kept_out"] == 0  # tags become spaces: another text
    marked = [f"<i>{text}</i>\u200b" for text in texts]
    data = load("language_model", marked, keep_out=keep_out, cleaning={"html": True})
    assert data.info.text.cleaning["kept_out"] == 20
    assert data.info.text.cleaning["html"] == 60
    assert {text for split in SPLITS for text in data.texts(split)} == set(texts[20:])


def test_keeping_out_numbers_is_a_mistake(load: Callable) -> None:
    with pytest.raises(UserError, match=r"data\.keep_out has data that is no text"):
        load(keep_out=[{"data": {"source": "builtin", "name": "digits"}}])


def test_duplicates_and_empty_documents(load: Callable) -> None:
    texts = [*documents(60), *documents(60)[:15], "\u200b", "<br>"]
    data = load(texts=texts, cleaning={"duplicates": "drop", "empty": "drop", "html": True})
    assert data.info.text.cleaning["duplicates"] == 15
    assert data.info.text.cleaning["empty"] == 2
    assert sum(len(data.texts(split)) for split in SPLITS) == 60
    with pytest.raises(UserError, match=r"corpus\.txt line 151: the text is empty after cleaning"):
        load(texts=texts)


def test_documents_too_short_for_the_task(load: Callable) -> None:
    texts = [*documents(60), "好", "书"]
    assert load(texts=texts).info.text.cleaning["too_short"] == 2
    assert load("sequence_to_sequence").info.text.cleaning["too_short"] == 2
    assert load("language_model").info.text.cleaning["too_short"] == 0


def test_nothing_left(load: Callable) -> None:
    with pytest.raises(UserError, match=r"no document is left .2 empty, 0 duplicates, 0 kept out"):
        load(texts=["\u200b", "\u200b"], cleaning={"empty": "drop"})


def test_fewer_examples_than_a_batch(load: Callable) -> None:
    with pytest.raises(UserError, match=r"training examples are fewer than one batch of 500; set data\.batch_size"):
        load(batch_size=500)


def test_no_document_is_long_enough(load: Callable) -> None:
    with pytest.raises(UserError, match=r"corpus\.txt: no training document is long enough for an example: all 14 "):
        load(texts=["好"] * 20)


def test_examples_cannot_be_listed(load: Callable) -> None:
    with pytest.raises(UserError, match=r"the test split of a corpus .* is not held in memory"):
        load().examples("test")


def test_a_part_of_the_training_documents(load: Callable) -> None:
    data, less = load("language_model"), load("language_model", train_examples=50)
    assert set(less.texts("train")) < set(data.texts("train"))
    assert len(less.texts("train")) == 50
    assert list(less.texts("test")) == list(data.texts("test"))
    with pytest.raises(UserError, match=r"data\.train_examples is 1,000 and there are"):
        load("language_model", train_examples=1_000)


def test_splits_of_their_own_may_be_empty(load: Callable) -> None:
    data = load(split={"validation": 0.0, "test": 0.1})
    assert data.info.counts["validation"] == 0
    assert list(data.validation()) == []


# --- The cache ---


def stores(tmp_path: Path) -> dict[str, int]:
    return {str(path.parent): path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*/store/manifest.json")}


def test_the_cache_is_used_again_by_every_task(load: Callable, tmp_path: Path) -> None:
    fingerprints = {load(task).info.fingerprint for task in TASKS}
    first = stores(tmp_path)
    assert len(first) == 2  # texts, tokens
    assert len(fingerprints) == 3
    assert fingerprints == {load(task).info.fingerprint for task in TASKS}
    assert stores(tmp_path) == first


@pytest.mark.parametrize(
    ("change", "new_stores"),
    [
        ({"split": {"seed": 7}}, 1),  # the vocabulary comes from other documents
        ({"cleaning": {"urls": True}}, 2),
        ({"tokenizer": {"min_count": 3}}, 1),
        ({"tokenizer": {"sequence_length": 32}}, 0),
        ({"masking": {"share": 0.3}}, 0),
        ({"texts": documents(seed=1)}, 2),
    ],
)
def test_what_changes_the_content_changes_its_key(
    load: Callable, tmp_path: Path, change: dict, new_stores: int
) -> None:
    before = load().info.fingerprint
    assert load(**change).info.fingerprint != before
    assert len(stores(tmp_path)) == 2 + new_stores


def test_the_place_and_the_seed_of_training_change_nothing(load: Callable, tmp_path: Path) -> None:
    before = load().info.fingerprint
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "corpus.txt").write_bytes((tmp_path / "corpus.txt").read_bytes())
    assert load(data_dir=tmp_path / "moved", shuffle_seed=5, batch_size=4).info.fingerprint == before
    assert len(stores(tmp_path)) == 2


def test_a_damaged_cache_is_made_again(load: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [arrays(element) for element in load().train()]
    for path in (tmp_path / "cache").glob("*/store/*.bin"):
        path.write_bytes(path.read_bytes()[::-1])
    after = [arrays(element) for element in load().train()]
    assert capsys.readouterr().err.count("warning: the cached corpus is made again") == 2
    assert all(same(one, other) for one, other in zip(before, after, strict=True))


def test_a_given_vocabulary(load: Callable, tmp_path: Path) -> None:
    own = load("language_model").preprocess
    (tmp_path / "own").mkdir()
    own.tokenizer.save(tmp_path / "own")
    data = load("language_model", tokenizer={"vocabulary": Path("own/vocabulary.txt")}, split={"seed": 9})
    assert data.preprocess.tokenizer.vocabulary == own.tokenizer.vocabulary
    with pytest.raises(UserError, match=r"vocab\.txt \(data\.tokenizer\.vocabulary\) is not there"):
        load("language_model", tokenizer={"vocabulary": Path("vocab.txt")})


def test_the_vocabulary_knows_training_documents_only(load: Callable) -> None:
    marked = [f"{text}{chr(0xAC00 + n)}{chr(0xAC00 + n)}" for n, text in enumerate(documents())]
    data = load("language_model", marked)
    known = set(data.preprocess.tokenizer.vocabulary)
    assert all(text[-1] in known for text in data.texts("train"))
    assert not any(text[-1] in known for split in ("validation", "test") for text in data.texts(split))


def test_several_parts(load: Callable, tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text("text\n" + "".join(f"另一本书{n}。很好\n" for n in range(20)))
    parts = [{"path": "corpus.txt"}, {"path": "*.csv", "text": "text"}]
    assert sum(len(load(parts=parts).texts(split)) for split in SPLITS) == 260


def test_line_breaks_divide_sentences(load: Callable) -> None:
    data = load(texts=[f"第{n}句没有标点\n后面一句也没有" for n in range(40)], masking={"masked": 0.0, "random": 0.0})
    vocabulary = data.preprocess.tokenizer.vocabulary
    assert next(iter(data.texts("train"))).endswith("句没有标点 后面一句也没有")
    for features, _ in data.train():
        second = features["token_ids"].numpy()[features["segment_ids"].numpy() == 1]
        shown = "".join(vocabulary[token] for token in second)
        assert all("后面一句也没有".startswith(sentence) for sentence in shown.split("[SEP]"))  # or its beginning


@pytest.mark.slow
def test_a_corpus_larger_than_the_memory_it_takes(tmp_path: Path) -> None:
    """40 MB of text, in a process that says how much more memory it took than for 3 MB.

    What is mapped from files is not counted: the system takes it back when it needs it.
    """
    code = """
import os, sys, threading, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import pipelines
from pipelines.config import CorpusConfig
folder, peak = sys.argv[1], 0
def watch():
    global peak
    while True:
        with open("/proc/self/status") as status:
            peak = max(peak, *(int(line.split()[1]) for line in status if line.startswith("RssAnon")))
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
def run(path):
    config = CorpusConfig.model_validate(dict(source="corpus", task="language_model", data_dir=folder,
        cache_dir=folder + "/cache", parts=[{"path": path, "documents": "line"}]))
    data = pipelines.load(config)
    for step, batch in zip(range(50), data.train()): pass
    return peak
before = run("small.txt")
print((run("large.txt") - before) / 1024)
"""
    line = "这本书很好看，物流也快。Read it again and again! " * 20
    for name, num in (("small.txt", 3_000), ("large.txt", 42_000)):
        with open(tmp_path / name, "w") as file:
            for number in range(num):
                file.write(f"{number} {line}\n")
    assert (tmp_path / "large.txt").stat().st_size > 40e6
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    # As text in Python, its documents would take 80 MB, and as numbers in one array 160.
    assert float(result.stdout) < 50
