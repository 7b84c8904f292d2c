"""`conf/`, `experiments/` and `sweeps/` travel with the package, as `ntt/_project/`; the rest is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = ("conf", "experiments", "sweeps")

setup(
    packages=[*find_packages(include=["ntt", "ntt.*"]), *(f"ntt._project.{folder}" for folder in FOLDERS)],
    package_dir={f"ntt._project.{folder}": folder for folder in FOLDERS},
    package_data={
        "ntt": ["py.typed", "**/*.json", "datasets/demo_data/**", "reports/assets/*"],
        **{f"ntt._project.{folder}": ["**/*.yaml"] for folder in FOLDERS},
    },
)
