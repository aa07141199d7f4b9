"""The documents: what they name exists, and both languages say the same."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ENGLISH = REPOSITORY / "docs" / "from_one_machine_to_many.md"
CHINESE = REPOSITORY / "docs" / "from_one_machine_to_many.zh.md"
DEPLOY = REPOSITORY / "deploy"
DOCUMENTS = (ENGLISH, CHINESE, DEPLOY / "README.md", DEPLOY / "README.zh.md")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_exists(document):
    text = document.read_text("utf-8")
    modules = set(re.findall(r"python -m ([\w.]+)", text)) | set(re.findall(r"-- (tfbigmodel[\w.]+)", text))
    assert {name for name in modules if importlib.util.find_spec(name) is None} == set()
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link}
    assert {link for link in links if not (document.parent / link).exists()} == set()
    paths = set(re.findall(r"\b((?:deploy|benchmarks|configs)/[\w./]*\w)", text))
    assert {path for path in paths if not (REPOSITORY / path).exists()} == set()
    # In backticks: keys of the configuration.
    schema = json.loads((REPOSITORY / "configs" / "schema.json").read_text("utf-8"))
    known = set(re.findall(r'"(\w+)": \{', json.dumps(schema)))
    keys = set(re.findall(r"`((?:training|data|checkpoints)\.(?!yaml)[a-z_.]+)[`:]", text))
    assert {key for key in keys if not set(key.split(".")) <= known} == set()


@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
def test_the_folders_that_the_readme_of_deploy_names_exist(readme):
    text = (DEPLOY / readme).read_text("utf-8")
    names = [name for row in re.findall(r"(?m)^\| (`[^|]*) \|", text) for name in re.findall(r"`([\w./]+)`", row)]
    assert len(names) > 8
    for name in names:
        folder = DEPLOY / ("kubernetes" if name.startswith("job_") else "")
        assert (folder / name).exists(), name


@pytest.mark.parametrize("document", [ENGLISH, CHINESE], ids=lambda path: path.name)
def test_quoted_messages_are_the_program_s(document):
    files = [path for package in ("tfbigmodel", "pipelines") for path in (REPOSITORY / package).rglob("*.py")]
    sources = "".join(path.read_text("utf-8") for path in files)
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)  # texts that go on in the next line
    sources = re.sub(r"\{[^{}]*\}", "…", sources)
    quoted = re.findall(r"(?m)^\| `([^`]+)` \|", document.read_text("utf-8"))
    own = [text for text in quoted if re.search(r"(?i)worker|replica|port ", text)]
    assert len(own) == 6
    for message in own:
        message = re.sub(r"\b\d+ s \(.*?\)|worker 1 \(b:2222\)|\b\d+\b|TF_CONFIG|…/checkpoints", "…", message)
        assert message in sources, message


@pytest.mark.parametrize("documents", [DOCUMENTS[:2], DOCUMENTS[2:]], ids=lambda paths: paths[0].name)
def test_both_languages_have_the_same_parts(documents):
    def parts(path):
        text = path.read_text("utf-8")
        commands = re.findall(r"```sh\n(.*?)```", text, re.S)
        return (
            [len(heading) for heading in re.findall(r"(?m)^(#+) ", text)],
            [re.sub(r" *#.*", "", command) for command in commands],
            text.count("\n| "),
            sorted(set(re.findall(r"`((?:training|data|checkpoints)\.[a-z_.]+)`", text))),
            sorted(re.findall(r"\d+\.\d+", text.replace("1.31", ""))),
        )

    english, chinese = documents
    assert parts(english) == parts(chinese)
