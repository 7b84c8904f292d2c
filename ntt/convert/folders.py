"""The files in and below a folder, and the only place where names from annotation files are looked up.

Linked folders are followed. Ignored files are noted, unusable ones are problems: nothing vanishes silently. Hidden
files and folders are left out.
"""

import os
import posixpath
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from ntt.data.images import image_suffixes
from ntt.errors import DataError

K = TypeVar("K")
_HARMLESS_SUFFIXES = ("", ".md", ".rst", ".html", ".log", ".cache", ".db", ".ini", ".lock")
_HARMLESS_NAMES = ("readme.txt", "license.txt", "classes.txt")
ANNOTATION_SUFFIXES = (".json", ".xml", ".txt", ".csv", ".yaml", ".yml", ".names", ".data")
"""Suffixes of further files that may be in a folder of images."""


class Folder:
    """The files in a folder and below it.

    Attributes:
        files: sorted by path.
        problems: links that lead nowhere, names that are not text, pipes and devices; one sentence each.
        notes: what was ignored, each completing the sentence "N ...".
    """

    def __init__(self, root: Path, *, without: Path | None = None) -> None:
        """List a folder, which must exist, except the subfolder `without`."""
        if not root.is_dir():
            raise DataError(f"The folder {root} does not exist. Create it or name another one.")
        self.root = root
        self.files: list[Path] = []
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._visited = {root.resolve()}
        self._without = without
        self._list(root)
        self.files.sort()

    @cached_property
    def images(self) -> list[Path]:
        """The images, by suffix."""
        return [path for path in self.files if path.suffix.lower() in image_suffixes()]

    def with_suffix(self, suffix: str) -> list[Path]:
        """Return the files with a suffix, in lower or upper case; a DataError if there are none."""
        files = [path for path in self.files if path.suffix.lower() == suffix]
        if not files:
            raise DataError(
                f"The folder {self.root} holds no {suffix} file. Name the folder that holds the {suffix} files."
            )
        return files

    def beside(self, path: Path, *endings: str) -> list[Path]:
        """Return the files next to `path` that have its stem and one of some endings, in lower or upper case."""
        return [file for ending in endings for file in self.named(path.parent, path.stem + ending)]

    def named(self, folder: Path, name: str) -> list[Path]:
        """Return the files of this name in a folder, in lower or upper case."""
        return self._by_name.get((folder, name.lower()), [])

    def images_called(self, folder: Path, stem: str) -> list[Path]:
        """Return the images in a folder whose stem is `stem`, in lower or upper case."""
        return self._images_by_stem.get((folder, stem.lower()), [])

    def passed_over(self, used: Collection[Path], harmless: Collection[str] = ()) -> list[Path]:
        """Return the files that are neither images nor used nor harmless, as a README or a `harmless` suffix is."""
        used = {*used, *self.images}
        return [
            path
            for path in self.files
            if path not in used
            and path.suffix.lower() not in (*_HARMLESS_SUFFIXES, *harmless)
            and path.name.lower() not in _HARMLESS_NAMES
        ]

    def find(self, stated: str | None, annotation_file: Path, annotation_root: Path) -> tuple[Path, bool]:
        """Return the image that an annotation file describes, and whether the file names another image.

        The image with the annotation file's own stem in the corresponding subfolder comes first. Only if there is none,
        or several, does the stated name count; of a path that leaves the folder, only the last part. A DataError if
        there is no such image.
        """
        subfolder = annotation_file.parent.relative_to(annotation_root)
        stem = annotation_file.stem.lower()
        near = self.images_called(self.root / subfolder, stem)
        named = self._stated(stated, subfolder)
        if len(near) == 1:
            return near[0], named is not None and named != near[0]
        if named is not None:
            return named, False
        same_stem = [path for (_, own), paths in self._images_by_stem.items() if own == stem for path in paths]
        if len(same_stem) == 1:
            return same_stem[0], False
        count = f"are {len(same_stem)} images" if same_stem else "is no image"
        raise DataError(
            f"{annotation_file}: there {count} {stated!r} or {annotation_file.stem}.* in {self.root}. One is needed."
        )

    def _stated(self, name: str | None, subfolder: Path) -> Path | None:
        """Look up an image by its stated name; a name that several images share does not count."""
        stated = (name or "").replace("\\", "/")
        base = posixpath.basename(stated)
        for candidate in (posixpath.join(subfolder.as_posix(), stated), stated, (subfolder / base).as_posix()):
            path = self.root / posixpath.normpath(candidate)
            if path in self._images:
                return path
        same_name = self._images_by_name.get(base.lower(), [])
        return same_name[0] if len(same_name) == 1 else None

    def _list(self, folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path == self._without:
                continue
            if path.name.encode(errors="replace") != os.fsencode(path.name):
                self.problems.append(f"The name of {os.fsencode(path)!r} is not UTF-8. Rename it.")
            elif path.is_dir():
                real = path.resolve()
                if real in self._visited:
                    self.notes.append(f"link(s) to a folder that is listed anyway, such as {path}, passed over")
                else:
                    self._visited.add(real)
                    self._list(path)
            elif path.is_file():
                self.files.append(path)
            elif path.is_symlink():
                self.problems.append(
                    f"{path} is a link to {path.readlink()}, which is not there. Restore or remove it."
                )
            else:
                self.problems.append(f"{path} is a pipe or a device. Remove it.")

    @cached_property
    def _by_name(self) -> Mapping[tuple[Path, str], list[Path]]:
        return _grouped(self.files, lambda path: (path.parent, path.name.lower()))

    @cached_property
    def _images(self) -> frozenset[Path]:
        return frozenset(self.images)

    @cached_property
    def _images_by_name(self) -> Mapping[str, list[Path]]:
        return _grouped(self.images, lambda path: path.name.lower())

    @cached_property
    def _images_by_stem(self) -> Mapping[tuple[Path, str], list[Path]]:
        return _grouped(self.images, lambda path: (path.parent, path.stem.lower()))


def _grouped(paths: Sequence[Path], key: Callable[[Path], K]) -> Mapping[K, list[Path]]:
    groups: defaultdict[K, list[Path]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return groups
