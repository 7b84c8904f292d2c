"""What the documents show works, what they list agrees with the project, and the installed package works."""

import json
import os
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
from conftest import PROJECT_DIR, cases, run_python
from tiny_data import SMALL, make_tiny

from ntt.cli.main import ntt
from ntt.config.compose import compose_config, compose_many
from ntt.run.runner import run
from ntt.run.stages import STAGES

if sys.version_info >= (3, 11):
    import tomllib


def documented_files(document: Path) -> dict[str, str]:
    """The code blocks of a document that begin with `# file: PATH`."""
    blocks = re.findall(r"```\w*\n# file: (\S+)\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    return dict(blocks)


def test_the_worked_example_is_an_option_like_any_other(tmp_path):
    files = documented_files(PROJECT_DIR / "CONTRIBUTING.md")
    assert set(files) == {"ntt/matchers/every_instance.py", "conf/matcher/every_instance.yaml"}
    for name in ("ntt", "conf", "experiments"):
        shutil.copytree(PROJECT_DIR / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT_DIR / "main.py", tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    root = make_tiny(tmp_path / "tiny")
    words = ["matcher=every_instance", "matcher.merging=soft", "shots=1shot", "visualisation.enabled=false"]
    done = run_python(
        "main.py", "dataset=coco_json", f"dataset.root={root}", *words, *SMALL, cwd=tmp_path, PYTHONPATH=""
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


def test_environments_have_the_direct_dependencies(project):
    conda = yaml.safe_load((PROJECT_DIR / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in conda if isinstance(entry, dict)]
    assert sorted(line for line in pip if not line.startswith("-")) == sorted(project["dependencies"])
    assert f"python{project['requires-python']}" in conda
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


def test_the_method_lists_all_stages_and_matchers():
    text = (PROJECT_DIR / "docs" / "method.md").read_text(encoding="utf-8")

    def first_column(header: str) -> list[str]:
        rows = text.split(f"\n| {header} |")[1].split("\n\n")[0].splitlines()
        return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]

    assert first_column("stage") == [stage.name for stage in STAGES]
    assert sorted(first_column("option")) == sorted(path.stem for path in (PROJECT_DIR / "conf/matcher").glob("*.yaml"))


def test_the_tutorial_makes_its_folder(tmp_path, monkeypatch):
    (script,) = documented_files(PROJECT_DIR / "docs" / "tutorial.md").values()
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "coins.py", "exec"), {})
    words = ["dataset=folder", "dataset.root=coins", "shots=all", "stage=references", f"runtime.output_root={tmp_path}"]
    run(compose_config(words))
    (references,) = json.loads(next(tmp_path.rglob("references.json")).read_text())["references"].values()
    assert len(references) == 3


def test_commands_and_the_container_of_the_documents_can_be_read():
    context = ntt.make_context("ntt", ["--"], resilient_parsing=True)
    for line in lines_that_begin("ntt"):
        command: click.Command | None = ntt
        words = shlex.split(line.split(" && ")[0], comments=True)
        while isinstance(command, click.Group):
            name, command, words = command.resolve_command(context, words)
        assert command is not None
        command.make_context(name, words, parent=context)
    recipe = (PROJECT_DIR / "apptainer.def").read_text(encoding="utf-8")
    names = re.findall(r"^    (\S+) /opt/ntt/\1$", recipe, flags=re.MULTILINE)
    assert {"ntt", "conf", "requirements.lock"} <= set(names)
    assert all((PROJECT_DIR / name).exists() for name in names)


def test_the_site_builds_without_a_warning(tmp_path):
    """Links to pages and headings, the navigation, and docstrings of the API page."""
    pytest.importorskip("mkdocs")
    done = run_python("-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").is_file()


FOLDERS = ("ntt", "conf", "experiments", "sweeps")
CODE = """
from pathlib import Path
import ntt
from ntt.cli.main import main

example = Path(ntt.__file__).parent / "datasets/demo_data/images/reference_0000.jpg"
settings = ["backbone.input_size=224", "segmenter.canvas_side=192", "segmenter.mask_side=96", "segmenter.leaves=200",
            "segmenter.max_masks=50"]
predictor = ntt.Predictor([ntt.Reference(example, "thing", box_xyxy=(20, 20, 200, 200))], overrides=settings)
assert main(["data", "check", "demo"]) == 0
assert main(["sweep", "plan", "sweeps/demo_small.yaml", "shots=1shot"]) == 0
main(["run", "dataset=demo", "shots=1shot", "visualisation.enabled=false", *settings])
assert len(list(Path("outputs").rglob("metrics.json"))) == 1
print("installed in", ntt.__file__)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder a wheel built from this project is installed in."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"
    for name in FOLDERS:
        shutil.copytree(PROJECT_DIR / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(PROJECT_DIR / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    no_network = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *no_network, "--wheel-dir", root, source], check=True)
    (wheel,) = root.glob("ntt_seg-*.whl")
    subprocess.run([*pip, "install", *no_network, "--target", root / "site", wheel], check=True)
    return root / "site"


@cases("folder")(*FOLDERS)
def test_everything_travels(site, folder):
    source = site.parent / "source" / folder
    installed = site / "ntt" if folder == "ntt" else site / "ntt" / "_project" / folder
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    assert [name for name in files if not (installed / name).is_file()] == []
    assert files


def test_commands_work_outside_the_clone(site, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"installed in {site / 'ntt' / '__init__.py'}\n")
    done = subprocess.run([site / "bin" / "ntt", "--version"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.startswith("ntt "), done.stderr
