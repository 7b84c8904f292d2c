"""The package as others install it: built, installed away from the clone, and used from a third folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT_DIR

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


@pytest.mark.parametrize("folder", FOLDERS)
def test_everything_travels(site: Path, folder: str):
    source = site.parent / "source" / folder
    installed = site / "ntt" if folder == "ntt" else site / "ntt" / "_project" / folder
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    assert [name for name in files if not (installed / name).is_file()] == []
    assert files


def test_commands_work_outside_the_clone(site: Path, tmp_path: Path):
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"installed in {site / 'ntt' / '__init__.py'}\n")
    done = subprocess.run([site / "bin" / "ntt", "--version"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.startswith("ntt "), done.stderr
