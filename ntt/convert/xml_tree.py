"""Reads small XML files of unknown origin.

XML can define entities that grow without bounds or name other files. Both need a document type declaration, which no
annotation file has any use for: a file with one is refused.
"""

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ntt.errors import DataError

_MAX_BYTES = 16 << 20
_MAX_DEPTH = 50


def read_xml(path: Path) -> Element:
    """Parse an XML file.

    Raises:
        DataError: if it cannot be read, is not XML, has a document type declaration, is larger than 16 MiB or nested
            more than 50 deep.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. A readable XML file is needed.") from error
    if len(data) > _MAX_BYTES:
        raise DataError(f"{path} has {len(data)} bytes; annotation files of up to {_MAX_BYTES} are read. Split it.")
    return _Reader(path).read(data)


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._builder = TreeBuilder()
        self._depth = 0

    def read(self, data: bytes) -> Element:
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._builder.data
        try:
            parser.Parse(data, True)  # noqa: FBT003
        except (expat.ExpatError, LookupError) as error:  # LookupError: an encoding nobody knows
            raise DataError(f"{self._path} is not valid XML: {error}. Export the annotation again.") from error
        root: Element = self._builder.close()
        return root

    def _refuse_doctype(self, *declaration: object) -> None:
        raise DataError(
            f"{self._path} has a document type declaration (<!DOCTYPE ...>), which may pull in other files or grow "
            "without bounds. Annotation files need none: remove it."
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise DataError(f"{self._path} is nested more than {_MAX_DEPTH} deep. It is no annotation file.")
        self._builder.start(tag, attributes)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        self._builder.end(tag)
