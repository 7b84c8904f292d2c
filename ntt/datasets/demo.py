"""The generated demo data set: photographic objects on photographic backgrounds, made in seconds, cached."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ntt.datasets.base import DatasetConfig, DatasetFiles
from ntt.datasets.demo_pictures import make_demo


@dataclass
class DemoConfig(DatasetConfig):
    """Schema of `dataset=demo`."""

    SCHEMA: ClassVar[str] = "demo"

    seed: int = 0
    """Decides which objects stand where; not the seed of the run."""

    num_targets: int = 24
    """Target images to compose."""

    root: str | None = None
    """Folder to generate into; null: a folder below `runtime.cache_root`."""

    def problems(self) -> list[str]:
        """Refuse a data set without targets."""
        if self.num_targets >= 1:
            return []
        return [
            f"dataset.num_targets={self.num_targets} is not possible: at least 1 target image is needed. "
            "Leave it out for 24."
        ]

    def locate(self, cache_root: Path) -> DatasetFiles:
        """Generate the data set unless it is there, and say where."""
        folder = Path(self.root) if self.root else cache_root / f"demo-seed{self.seed}-{self.num_targets}"
        root = make_demo(folder.expanduser().absolute(), seed=self.seed, num_targets=self.num_targets)
        return DatasetFiles(
            references_file=root / "annotations" / "references.json",
            reference_images=root / "images",
            targets_file=root / "annotations" / "targets.json",
            target_images=root / "images",
        )
