"""Fixtures shared by all tests."""

import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from slurm.cluster import Cluster, why_not

PROJECT_DIR = Path(__file__).resolve().parent.parent
SHARED_DIR = PROJECT_DIR.parent / "shared"
# The files that take longest, longest first.
LONGEST = ("on_cluster", "parity_end_to_end", "sweep_local", "docs", "cli", "config", "runner", "dist", "report_files")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that processes that share the tests end at about the same time."""
    names = [f"test_{name}" for name in LONGEST]
    items.sort(key=lambda item: names.index(item.path.stem) if item.path.stem in names else len(names))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real data and recorded reference values; tests that need it skip where it is absent."""
    if not (SHARED_DIR / "data").is_dir():
        pytest.skip("needs ../shared (development data and recorded reference values)")
    return SHARED_DIR


@pytest.fixture(scope="session")
def recorded_dir() -> Path:
    """Values recorded from the reference implementation that need no photographs; part of the project."""
    return PROJECT_DIR / "tests" / "golden"


@pytest.fixture(scope="session")
def golden_dir(shared_dir: Path) -> Path:
    """Inputs and outputs recorded from the reference implementation on photographs."""
    return shared_dir / "golden"


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    """Where models run. `-m "gpu and parity"` repeats on a CUDA device what the parity tests do on the CPU."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return str(request.param)


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory) -> Iterator[Cluster]:
    """A SLURM cluster of this machine alone, in a folder of its own; started once for all tests that use it."""
    obstacle = why_not()
    if obstacle:
        pytest.skip(f"needs a SLURM cluster of its own: {obstacle}")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """The data set of `tiny_data`, for tests that leave it as it is."""
    from tiny_data import make_tiny

    return make_tiny(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory) -> Path:
    """One store for all tests that do not look into it, so that candidates are computed once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def cli(capsys) -> Callable[..., str]:
    """Call `ntt` in this process; returns what it says: its output, or the message of a user error (status 2)."""
    from ntt.cli.main import main

    def call(*words: object, status: int = 0) -> str:
        capsys.readouterr()
        ended_with = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert ended_with == status, out + err
        return err if status == 2 else out

    return call


def run_python(*words: object, cwd: Path = PROJECT_DIR, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run this project's code in a process of its own, with one thread and with environment variables on top."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_DIR), "OMP_NUM_THREADS": "1", **variables}
    words = [sys.executable, *map(str, words)]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def cases(*names: str, ids: Any = None) -> Callable[..., pytest.MarkDecorator]:
    """Run a test once for each row of values: `@cases("number", "square")((2, 4), (3, 9))`, short for `parametrize`."""
    return lambda *rows: pytest.mark.parametrize(names if len(names) > 1 else names[0], rows, ids=ids)


@contextmanager
def refused(error: type[BaseException], *parts: str) -> "Iterator[pytest.ExceptionInfo[BaseException]]":
    """Expect an error whose text has all these parts."""
    with pytest.raises(error) as caught:
        yield caught
    assert [part for part in parts if part not in str(caught.value)] == [], str(caught.value)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their parameter: an archive's hold the time, and all workers must collect the same names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def clean_process() -> None:
    """Compute with one thread, as threads wait for one another when busy; undo what earlier tests left of logging.

    Programs that ran in this process leave the root logger at Hydra's level, and handlers whose stream is closed.
    """
    import torch

    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.WARNING)
    for logger in (logging.getLogger(), logging.getLogger("ntt")):
        for handler in logger.handlers[:]:
            if getattr(getattr(handler, "stream", None), "closed", False):
                logger.removeHandler(handler)


@contextmanager
def untraced() -> Iterator[None]:
    """Do without coverage's tracer, which doubles the time that other people's packages take."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


def pytest_collection(session: pytest.Session) -> None:
    """Import the largest packages untraced, where tests are run."""
    if sys.gettrace() and session.config.getoption("dist", "no") == "no":
        with untraced():
            for name in ("higra", "hydra", "pandas", "scipy.stats", "skimage.segmentation", "timm", "torch"):
                importlib.import_module(name)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_repeated_in_vain() -> Iterator[None]:
    """Compose untraced, and build the packaged network once."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    from ntt.models.backbones import efficientnet_lite0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigLoaderImpl, "load_configuration", untraced()(ConfigLoaderImpl.load_configuration))
        patch.setattr(efficientnet_lite0, "_build_trunk", cache(efficientnet_lite0._build_trunk))
        yield
