"""Several folders in COCO format searched as one: every class in every image."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ntt.datasets.base import DatasetConfig, DatasetFiles
from ntt.datasets.coco_json import CocoJsonConfig
from ntt.datasets.pooling import Member, pool

_LONGEST_LABEL = 80


@dataclass
class PooledConfig(DatasetConfig):
    """Schema of `dataset=pooled`; the relative paths below start at each of the roots."""

    SCHEMA: ClassVar[str] = "pooled"

    roots: list[str] = field(default_factory=list)
    """Folders of the data sets, two or more."""

    references: str = "annotations/references.json"
    """Annotation file the references are drawn from."""

    targets: str = "annotations/targets.json"
    """Annotation file of the images to search."""

    reference_images: str = "images"
    """Folder of the references' images."""

    target_images: str = "images"
    """Folder of the target images."""

    def label(self) -> str:
        """Names of the root folders, or their number where that would be too long."""
        joined = "+".join(self._labels())
        return joined if len(joined) <= _LONGEST_LABEL else f"{self.name}-{len(self.roots)}sets"

    def problems(self) -> list[str]:
        """Refuse fewer than two data sets, and the same one twice."""
        found = []
        if len(self.roots) < 2:
            found.append(
                f"dataset.roots={self.roots} is not possible: at least two folders are needed. Give them as "
                "dataset.roots=[FOLDER,FOLDER], or search a single one with dataset=coco_json."
            )
        places = Counter(str(Path(root).expanduser().absolute()) for root in self.roots)
        repeated = sorted(place for place, count in places.items() if count > 1)
        if repeated:
            found.append(f"dataset.roots names {', '.join(repeated)} more than once. Name each folder once.")
        return found

    def locate(self, cache_root: Path) -> DatasetFiles:
        """Write the pooled annotation files below `cache_root` unless they are there, and say where."""
        members = []
        for root, label in zip(self.roots, self._labels(), strict=True):
            files = self._member(root).locate(cache_root)
            members.append(
                Member(
                    label=label,
                    references_file=files.references_file,
                    reference_images=files.reference_images,
                    targets_file=files.targets_file,
                    target_images=files.target_images,
                )
            )
        folder = pool(members, cache_root)
        return DatasetFiles(
            references_file=folder / "annotations" / "references.json",
            reference_images=folder / "reference_images",
            targets_file=folder / "annotations" / "targets.json",
            target_images=folder / "target_images",
        )

    def _member(self, root: str) -> CocoJsonConfig:
        return CocoJsonConfig(
            name=self.name,
            root=root,
            references=self.references,
            targets=self.targets,
            reference_images=self.reference_images,
            target_images=self.target_images,
        )

    def _labels(self) -> list[str]:
        """Name each data set after its folder; folders of the same name are numbered."""
        labels: list[str] = []
        for root in self.roots:
            plain = self._member(root).label()
            count = sum(label == plain or label.startswith(f"{plain}~") for label in labels)
            labels.append(plain if not count else f"{plain}~{count + 1}")
        return labels
