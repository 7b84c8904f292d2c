"""Random damage to images, archives and files of other formats ends in a sentence, never in a traceback or a hang."""

import io
import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import cases
from PIL import Image
from test_converters import picture, shape, voc_file, voc_object
from test_images import DEEP, PIXELS, png16, ppm16, record, tiff16

from ntt.base.files import read_json, write_json
from ntt.convert.labelme import convert_labelme
from ntt.convert.plain_folder import convert_references, read_mask
from ntt.convert.voc import convert_voc
from ntt.convert.yolo import convert_yolo, read_classes
from ntt.data.images import check_images, depth_sample, read_image, upright_size, white_level
from ntt.errors import NttError, StorageError
from ntt.run.rundir import RunDirectory

_TIMES = 200
_VALUES = [b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4, b"9999", b"1e99", b"nan ", b"-1  "]


def damaged(content: bytes, generator: random.Random) -> bytes:
    """Change, remove, insert or repeat some bytes, more often near the beginning, where formats say what follows."""
    data = bytearray(content)
    for _ in range(generator.choice([1, 1, 2, 5, 20])):
        index = generator.randrange(max(1, min(len(data), generator.choice([64, 200, len(data) + 1]))))
        way = generator.randrange(5)
        if way == 0:
            data[index : index + 1] = generator.randbytes(1)
        elif way == 1:
            del data[index : index + generator.choice([1, 4, 50, len(data)])]
        elif way == 2:
            data[index:index] = generator.randbytes(generator.choice([1, 4, 30]))
        elif way == 3:
            data[index : index + 4] = generator.choice(_VALUES)
        else:
            data += data[:index]
    return bytes(data)


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, format=kind)
    return stream.getvalue()


def read_everything(path: Path) -> None:
    image = record(path)
    for read in (
        lambda: white_level(depth_sample([image])),
        lambda: check_images([image], full=True),
        lambda: read_image(image),
        lambda: upright_size(path),
        lambda: read_mask(path, (20, 30)),
    ):
        sentence_at_most(read)


def sentence_at_most(read: Callable[[], Any]) -> None:
    with suppress(NttError):
        read()


def as_yolo(path: Path) -> None:
    (path.parent / "data.yaml").write_text("kpt_shape: [2, 2]\nnames: [boat, bird]\n")
    convert_yolo(images=path.parent, labels=path.parent, names=path.parent / "data.yaml")


def as_box(path: Path) -> None:
    folder = path.parent / "references/boat"
    folder.mkdir(parents=True)
    picture(folder / "a.png")
    path.rename(folder / "a_box.txt")
    convert_references(folder.parent)


LABELME = {"shapes": [shape("b", "circle", [[5, 5], [9, 9]], group_id=1), shape("c", "rectangle", [[1, 2], [3, 4]])]}
TEXTS: dict[str, tuple[bytes, Callable[[Path], Any]]] = {
    "a.txt": (b"1 0.5 0.5 0.2 0.5 0.5 0.5 0.5 0.5\n0 0 0 0.5 0 0.5 0.25 0 0\n", as_yolo),
    "data.yaml": (b"path: ..\nkpt_shape: [4, 2]\nnames:\n  0: boat\n  1: 'bird'\n", read_classes),
    "a.json": (json.dumps(LABELME).encode(), lambda path: convert_labelme(annotations=path.parent)),
    "b.txt": (b"1 2 30 30\n5,5,9,9\n", as_box),
}


@pytest.mark.slow
@cases("name")(*TEXTS)
def test_damaged_files_of_other_formats(name, tmp_path):
    content, read = TEXTS[name]
    generator = random.Random(name)
    for number in range(_TIMES):
        folder = tmp_path / str(number)
        picture(folder / "a.png")
        (folder / name).write_bytes(damaged(content, generator))
        sentence_at_most(lambda path=folder / name: read(path))
        shutil.rmtree(folder)


@pytest.mark.slow
def test_damaged_voc_files(tmp_path):
    picture(tmp_path / "a.png")
    voc_file(tmp_path / "a.xml", voc_object("dog", (1, 2, 3, 4), difficult=1), filename="a.png")
    content, generator = (tmp_path / "a.xml").read_bytes(), random.Random(0)
    for _ in range(_TIMES):
        (tmp_path / "a.xml").write_bytes(damaged(content, generator))
        sentence_at_most(lambda: convert_voc(annotations=tmp_path, images=tmp_path))


@pytest.mark.slow
@cases("kind")("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000", "AVIF", "16 bits")
@pytest.mark.filterwarnings("ignore")
def test_damaged_images(kind, tmp_path):
    generator = random.Random(kind)
    deep = [write(tmp_path / "deep", DEEP).read_bytes() for write in (png16, ppm16, tiff16)]
    for _ in range(_TIMES):
        content = generator.choice(deep) if kind == "16 bits" else encoded(kind)
        (tmp_path / "a").write_bytes(damaged(content, generator))
        read_everything(tmp_path / "a")


def test_only_files_as_they_were_written_are_removed(tmp_path, monkeypatch):
    directory, elsewhere = RunDirectory(tmp_path / "run"), tmp_path / "elsewhere"
    (directory.root / "pictures").mkdir(parents=True)
    elsewhere.mkdir()
    (directory.root / "linked").symlink_to(elsewhere)
    files = [directory.root / name for name in ("own.json", "pictures/own.png", "changed.json", "linked/other.json")]
    for file in files:
        write_json(file, 1)
    files.append(directory.root / "link.json")
    files[-1].symlink_to(files[0])
    directory.write_record("matching", "key", files, {"seconds": 1.0})
    files[2].write_text("changed")
    record = directory.root / "stages/matching.json"
    content = read_json(record)
    content["files"] |= {name: {"bytes": 1} for name in ("", ".", "pictures", "\0", "gone.json")}
    write_json(record, content)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        with pytest.raises(StorageError, match=r"own\.json .* cannot be removed: denied"):
            directory.discard("matching")
    directory.discard("matching")
    assert not any(file.exists() for file in (*files[:2], record))
    assert all(os.path.lexists(file) for file in files[2:])
