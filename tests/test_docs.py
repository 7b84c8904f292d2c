"""What the documents show works, and what they list agrees with the project."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from conftest import PROJECT_DIR
from tiny_data import SMALL, make_tiny

from ntt.cli.main import ntt
from ntt.config.compose import compose_config, compose_many
from ntt.run.runner import run

if sys.version_info >= (3, 11):
    import tomllib


def documented_files(document: Path) -> dict[str, str]:
    """The code blocks of a document that begin with `# file: PATH`."""
    blocks = re.findall(r"```\w*\n# file: (\S+)\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    return dict(blocks)


def test_the_worked_example_is_an_option_like_any_other(tmp_path: Path):
    files = documented_files(PROJECT_DIR / "CONTRIBUTING.md")
    assert set(files) == {"ntt/matchers/every_instance.py", "conf/matcher/every_instance.yaml"}
    for name in ("ntt", "conf", "experiments"):
        shutil.copytree(PROJECT_DIR / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT_DIR / "main.py", tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    root = make_tiny(tmp_path / "tiny")
    words = ["matcher=every_instance", "matcher.merging=soft", "shots=1shot", "visualisation.enabled=false"]
    done = subprocess.run(
        [sys.executable, "main.py", "dataset=coco_json", f"dataset.root={root}", *words, *SMALL],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "efficientnet_lite0_regions_every_instance_" in done.stdout
    assert len(list(tmp_path.rglob("metrics.json"))) == 1


@pytest.fixture
def project() -> dict[str, Any]:
    """The project table of pyproject.toml."""
    if sys.version_info < (3, 11):
        pytest.skip("reads pyproject.toml with tomllib, new in Python 3.11")
    table: dict[str, Any] = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text())["project"]
    return table


def test_conda_environment_has_the_same_direct_dependencies(project: dict[str, Any]):
    conda = yaml.safe_load((PROJECT_DIR / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in conda if isinstance(entry, dict)]
    assert sorted(line for line in pip if not line.startswith("-")) == sorted(project["dependencies"])
    assert f"python{project['requires-python']}" in conda


def test_the_lock_pins_every_direct_dependency(project: dict[str, Any]):
    lock = (PROJECT_DIR / "requirements.lock").read_text()
    pinned = {line.split("==")[0] for line in lock.splitlines() if "==" in line}
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["dev"], *extras["docs"]]
    assert {re.split(r"[<>=]", line)[0] for line in lines} <= pinned
    for file in ("requirements.lock", "requirements-sam2.lock"):
        text = (PROJECT_DIR / file).read_text().replace("\\\n", "")
        assert all("--hash=sha256:" in line for line in text.splitlines() if "==" in line and not line.startswith("#"))


def test_local_links_of_the_documents_lead_somewhere():
    """Those within `docs/` are checked by `make docs`, headings included."""
    for document in PROJECT_DIR.glob("*.md"):
        links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)(?:#([^)]+))?", document.read_text(encoding="utf-8"))
        for name, anchor in links:
            target = document.parent / name
            assert target.exists(), f"{document.name}: {name}"
            if anchor:
                assert anchor in anchors(target), f"{document.name}: {name}#{anchor}"


def anchors(document: Path) -> list[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def lines_that_begin(command: str) -> list[str]:
    """The command lines in README and docs that begin with a regular expression, what follows it."""
    documents = [PROJECT_DIR / "README.md", *(PROJECT_DIR / "docs").glob("*.md")]
    texts = [document.read_text(encoding="utf-8").replace("\\\n", " ") for document in documents]
    pattern = rf"^(?:\.venv/bin/)?{command} (\S.*)$"
    return [line for text in texts for line in re.findall(pattern, text, flags=re.MULTILINE)]


def test_runs_in_the_documents_compose():
    """Those without options of Hydra, such as --multirun."""
    lines = [line.split(" && ")[0] for line in lines_that_begin(r"(?:python main\.py|ntt run)")]
    points = [shlex.split(line, comments=True) for line in lines if not re.search(r"(^|\s)--|\.\.\.", line)]
    assert len(points) > 20
    compose_many(points)


def test_the_tutorial_makes_its_folder(tmp_path: Path, monkeypatch):
    (script,) = documented_files(PROJECT_DIR / "docs" / "tutorial.md").values()
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "coins.py", "exec"), {})
    words = ["dataset=folder", "dataset.root=coins", "shots=all", "stage=references", f"runtime.output_root={tmp_path}"]
    run(compose_config(words))
    (references,) = json.loads(next(tmp_path.rglob("references.json")).read_text())["references"].values()
    assert len(references) == 3


def test_commands_in_the_documents_can_be_read():
    context = ntt.make_context("ntt", ["--"], resilient_parsing=True)
    for line in lines_that_begin("ntt"):
        command: click.Command | None = ntt
        words = shlex.split(line.split(" && ")[0], comments=True)
        while isinstance(command, click.Group):
            name, command, words = command.resolve_command(context, words)
        assert command is not None
        command.make_context(name, words, parent=context)


def test_the_container_is_built_from_files_that_exist():
    recipe = (PROJECT_DIR / "apptainer.def").read_text(encoding="utf-8")
    names = re.findall(r"^    (\S+) /opt/ntt/\1$", recipe, flags=re.MULTILINE)
    assert {"ntt", "conf", "requirements.lock"} <= set(names)
    assert all((PROJECT_DIR / name).exists() for name in names)


def test_the_site_builds_without_a_warning(tmp_path: Path):
    """Links to pages and headings, the navigation, and docstrings of the API page."""
    pytest.importorskip("mkdocs")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=PROJECT_DIR, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").is_file()
