import base64
import re
import unicodedata
from html.parser import HTMLParser

import numpy as np
import pytest

from pipelines.errors import UserError
from tfbigmodel.evaluation.errors import worst_errors
from tfbigmodel.evaluation.figures import png
from tfbigmodel.evaluation.metrics import classification_metrics, regression_metrics
from tfbigmodel.evaluation.report import format_report, write_html_report

CHINESE = ["T恤/上衣", "长裤", "套头衫", "连衣裙", "外套", "凉鞋", "衬衫", "运动鞋", "包", "短靴"]
ENGLISH = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
EVIL = "<script>alert(1)</script>&\"'\n\x1b[31m\ud800"


def make_results(names, num_examples=400, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(names), num_examples)
    logits = generator.normal(size=(num_examples, len(names))) + 2 * np.eye(len(names))[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    metrics = classification_metrics(labels, probabilities, names)
    return {
        "metrics": {"loss": 0.25} | metrics,
        "baselines": {
            "majority_class": {"accuracy": 0.103, "f1_macro": 0.02, "roc_auc": None, "train_examples": 1437},
            "logistic_regression": {"accuracy": 0.958, "train_examples": 1000, "note": "not fully converged"},
        },
        "worst_errors": worst_errors(labels, probabilities, names, "test.csv", np.arange(1, num_examples + 1), 5),
    }


def cells(text):
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def block(text, title):
    """The lines of a table: headings, rule, rows."""
    return text.split(f"{title}")[1].split("\n\n")[0].strip("\n").splitlines()


def assert_aligned(lines):
    """Every number ends in the terminal column where its rule ends."""
    rule = next(line for line in lines if set(line) <= {"-", " "})
    ends = [match.end() for match in re.finditer("-+", rule)]
    for line in lines:
        if not line.startswith(("*", "  ")):
            position, boundaries = 0, {}
            for char in line + " ":
                boundaries[position] = char
                position += cells(char)
            for end in ends[:-1]:
                # A column's end is a character's boundary, followed by the gap: no cell reaches over it.
                assert boundaries.get(end, " ") == " ", (line, end)
            assert cells(line) <= ends[-1]


@pytest.mark.parametrize("names", [CHINESE, ENGLISH, ["差评", "good"], [str(digit) for digit in range(10)]])
def test_aligned_and_within_100_columns(names):
    text = format_report(make_results(names), title="dense on digits")
    assert max(map(cells, text.splitlines())) <= 100
    for title in ("Classes\n", "predicted class)\n", "(test.csv)\n", "Metrics\n"):
        assert_aligned(block(text, title))
    assert "\x1b" not in text


def test_numbers_end_at_one_column_beside_chinese_names():
    lines = block(format_report(make_results(CHINESE)), "Classes\n")
    assert len({cells(line) for line in lines}) == 1
    assert lines[2].startswith("T恤/上衣 ")
    assert lines[3].startswith("长裤     ")


def test_says_the_result_in_a_sentence():
    text = format_report(make_results(ENGLISH)).replace("\n", " ")
    assert re.search(
        r"Right for \d\d\.\d % of 400 examples; always guessing the commonest class: 10\.3 %; "
        r"a logistic regression: 95\.8 %\.",
        text,
    )


def test_headline_beside_baselines():
    text = format_report(make_results(ENGLISH))
    lines = block(text, "Metrics\n")
    assert lines[0].split() == ["model", "majority", "class", "logistic", "regression"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert rows["loss"] == ["0.2500", "-", "-"]
    assert rows["accuracy"][1:] == ["0.1030", "0.9580"]
    assert rows["roc_auc"][1:] == ["-", "-"]
    assert "* majority class: fitted on 1,437 training examples" in text
    assert "* logistic regression: fitted on 1,000 training examples; not fully converged" in text


def test_confusion_of_names_that_do_not_fit_is_numbered():
    names = [f"a rather long class name {index}" for index in range(10)]
    lines = block(format_report(make_results(names)), "predicted class)\n")
    assert lines[0].split() == ["true", "\\", "predicted", *map(str, range(10))]
    assert lines[2].startswith("0 a rather long class ..")


def test_many_classes_are_cut_and_it_says_so():
    names = [f"类{index}" for index in range(60)]
    results = make_results(names, num_examples=3000)
    text = format_report(results)
    assert re.search(
        r"\* the 12 of 60 classes in the most confusions; \d+ of [\d,]+ confusions are between these", text
    )
    assert "* the 50 of 60 classes with the lowest F1" in text
    lines = block(text, "predicted class)\n")
    shown = [int(name[1:]) for name in lines[0].split()[3:]]
    matrix = np.array(results["metrics"]["confusion_matrix"])
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    assert len(shown) == 12
    assert wrong[shown].min() >= np.delete(wrong, shown).max()
    assert lines[2].split()[1:] == [str(count) for count in matrix[shown[0], shown]]


def test_binary_says_what_precision_is_of():
    results = make_results(["差评", "好评"])
    assert 'of the class "好评", predicted where it is the more probable class' in format_report(results)
    results["metrics"]["threshold"] = 0.35
    assert 'of the class "好评", predicted from a probability of 0.35' in format_report(results)


def test_regression(tmp_path):
    results = {
        "metrics": regression_metrics([1.0, 2.0, 4000.0], [1.5, 2.0, 3000.0]),
        "baselines": {"mean": {"mae": 1500.0}, "ridge_regression": {"mae": 1.0}},
        "worst_errors": worst_errors([1.0, 2.0], [1.5, 2.0], (), "houses.csv", [1, 2]),
    }
    text = format_report(results)
    assert "Off by 333.5000 on average over 3 examples; always guessing the mean: 1,500.00; a ridge" in text
    assert "Worst errors (houses.csv)" in text
    assert "Confusion" not in text
    write_html_report(tmp_path / "report.html", results)
    assert "mean absolute error" in (tmp_path / "report.html").read_text()


def test_model_alone():
    text = format_report({"metrics": make_results(ENGLISH)["metrics"]})
    assert "Worst errors" not in text
    assert "majority" not in text


def test_control_characters_do_not_reach_the_terminal():
    text = format_report(make_results([EVIL, "fine"]), title=EVIL)
    assert "\x1b" not in text
    assert "\\n\\x1b[31m\\ud800" in text
    text.encode()


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.attributes = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_html_is_one_file_without_network_or_scripts(tmp_path):
    path = tmp_path / "folder" / "report.html"
    write_html_report(path, make_results(CHINESE), title="手写 & digits")
    html = path.read_text(encoding="utf-8")
    page = _Page()
    page.feed(html)
    assert html.startswith("<!doctype html>")
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    assert "http" not in html
    assert "手写 & digits" in page.text
    assert "always guessing the commonest class: 10.3 %" in page.text
    assert page.tags.count("table") == 4
    assert sum(name == "style" for name, _ in page.attributes) == 100
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_html_escapes_what_users_named(tmp_path):
    path = tmp_path / "report.html"
    results = make_results([EVIL, "fine"])
    for error in results["worst_errors"]:
        error["origin"] = EVIL
    write_html_report(path, results, title=EVIL)
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>&\"'" in page.text
    assert "<script" not in path.read_text(encoding="utf-8")


def test_paths_are_whole_and_come_last():
    results = make_results(CHINESE)
    for number, error in enumerate(results["worst_errors"]):
        error["file"] = f"/photos/{'long/' * 20}图 {number}\n.jpg"
    lines = block(format_report(results), "(test.csv)\n")
    assert lines[0].split()[-1] == "file"
    assert [line.partition("/photos/")[2] for line in lines[2:7]] == [f"{'long/' * 20}图 {n}\\n.jpg" for n in range(5)]


def test_errors_of_a_regression_name_their_files():
    errors = worst_errors([1.0, 2.0], [1.5, 2.0], (), "photos", [1, 2], files=["a.jpg", "b.jpg"])
    metrics = regression_metrics([1.0, 2.0], [1.5, 2.0])
    lines = block(format_report({"metrics": metrics, "worst_errors": errors}), "(photos)\n")
    assert [line.split()[-1] for line in lines] == ["file", "-----", "a.jpg", "b.jpg"]


def test_html_shows_pictures_of_errors_inside_the_file(tmp_path):
    results = make_results([EVIL, "fine"])
    for error in results["worst_errors"]:
        error["file"] = EVIL
    pictures = [np.full((4, 6, 3), number, np.uint8) for number in range(5)]
    write_html_report(tmp_path / "report.html", results, thumbnails=pictures)
    page = _Page()
    page.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.tags.count("img") == 5
    sources = [value for name, value in page.attributes if name == "src"]
    assert sources == [f"data:image/png;base64,{base64.b64encode(png(image)).decode()}" for image in pictures]
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "http" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_a_baseline_sees_is_said():
    results = make_results(ENGLISH)
    results["baselines"]["logistic_regression"]["inputs"] = "32 × 32 pixels"
    text = " ".join(format_report(results).split())
    assert "; a logistic regression on 32 × 32 pixels: 95.8 %." in text
    assert "* logistic regression on 32 × 32 pixels: fitted on 1,000 training examples; not fully converged" in text


def test_html_colours_by_the_row_right_green_and_wrong_red(tmp_path):
    metrics = classification_metrics([0, 0, 0, 0, 1], np.eye(2)[[0, 0, 0, 1, 1]], ["a", "b"])
    write_html_report(tmp_path / "r.html", {"metrics": metrics})
    page = _Page()
    page.feed((tmp_path / "r.html").read_text())
    styles = [value for name, value in page.attributes if name == "style"]
    green, red = "background: rgba(46, 160, 67, {:.3f})", "background: rgba(218, 54, 51, {:.3f})"
    assert styles == [green.format(0.7 * 0.75**0.5), red.format(0.35), red.format(0), green.format(0.7)]


def test_html_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        write_html_report(tmp_path, make_results(ENGLISH))
    assert list(tmp_path.iterdir()) == []
