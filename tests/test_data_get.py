"""Downloading and unpacking published data sets, against a server of our own and miniature archives."""

import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import cases, refused
from http_server import Site, serve
from miniatures import make_miniature

from ntt.base.digests import sha256_of
from ntt.cli.data_files import files_by_shots
from ntt.cli.main import main
from ntt.config.compose import compose_config
from ntt.data.coco import read_coco
from ntt.datasets.published import fetch
from ntt.datasets.published.archives import unpack
from ntt.datasets.published.cdfsod import list_path, published_references, references_key
from ntt.datasets.published.check import check_published
from ntt.datasets.published.details import Archive, DatasetDetails, known_datasets
from ntt.datasets.published.fetch import convert_devkit, list_name, write_kshot_files, write_minival
from ntt.errors import DataError, StorageError
from ntt.run.runner import run


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return stream.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@cases("pack")(zipped, lambda files: tarred(files, links={"b.txt": "/etc/passwd"}))
def test_unpacking(pack, tmp_path):
    """Links are left out."""
    files = {"a/1.txt": b"one", "a/b/2.txt": b"", "3.txt": b"three" * 100}
    (tmp_path / "x.bin").write_bytes(pack(files))
    assert unpack(tmp_path / "x.bin", tmp_path / "out") == 3
    assert tree(tmp_path / "out") == files


@cases("pack")(zipped, tarred)
@cases("name")("../out.txt", "a/../../out.txt", "/etc/out.txt")
def test_names_that_lead_out_are_refused_before_anything_is_written(pack, name, tmp_path):
    (tmp_path / "x.bin").write_bytes(pack({"good.txt": b"good", name: b"bad"}))
    with pytest.raises(DataError, match=r"would be outside the folder\. Nothing was unpacked"):
        unpack(tmp_path / "x.bin", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@cases("content")(b"no archive", tarred({"a.txt": b"a" * 600})[:1000], zipped({"a.txt": b"a" * 99})[:-9])
def test_damaged_archives(content, tmp_path):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.bin is damaged or no archive"):
        unpack(tmp_path / "x.bin", tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_a_full_disk_is_noticed_before_unpacking(tmp_path, monkeypatch):
    (tmp_path / "x.zip").write_bytes(zipped({"a.txt": b"a"}))
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    with pytest.raises(StorageError, match=r"Not enough disk space for the files of x\.zip: 67 MB are needed"):
        unpack(tmp_path / "x.zip", tmp_path / "out")


class World:
    """Archives of a miniature on a server, and an empty data root."""

    def __init__(self, site: Site, source: Path, root: Path) -> None:
        self.site, self.source, self.root = site, source, root
        self.archives: list[Archive] = []

    def offer(self, name: str, into: str, files: dict[str, bytes], provides: dict[str, int]) -> None:
        content = (zipped if name.endswith(".zip") else tarred)(files)
        self.site.files[f"pub/{name}"] = content
        digest = hashlib.md5(content).hexdigest()
        self.archives.append(Archive(f"{self.site.url}/pub/{name}", digest, 1, into, provides))

    def below(self, folder: str, *prefixes: str) -> dict[str, bytes]:
        return {name: data for name, data in tree(self.source / folder).items() if name.startswith(prefixes)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch) -> Iterator[World]:
    with serve(Site()) as site:
        served = World(site, tmp_path / "made", tmp_path / "data")
        monkeypatch.setattr(fetch, "archives", lambda _: tuple(served.archives))
        monkeypatch.setattr("ntt.cli.data_files.archives", lambda _: tuple(served.archives))
        monkeypatch.setattr(fetch, "few_shot_lists_url", lambda: f"{site.url}/vocsplit/")
        monkeypatch.delenv("NTT_OFFLINE", raising=False)
        monkeypatch.delenv("NTT_DATA_MIRROR", raising=False)
        monkeypatch.setenv("NTT_DATA", str(served.root))
        yield served


def offer_coco(world: World) -> DatasetDetails:
    details = make_miniature("coco", world.source)
    world.offer("val2017.zip", "coco", world.below("coco", "val2017/"), {"val2017": 2})
    world.offer("train2017.zip", "coco", world.below("coco", "train2017/"), {"train2017": 7})
    names = {f"annotations/instances_{half}2017.json": 1 for half in ("val", "train")}
    world.offer("annotations_trainval2017.zip", "coco", world.below("coco", "annotations/"), names)
    return details


def test_get_coco(world, capsys, cli):
    details = offer_coco(world)
    assert main(["data", "get", "coco"]) == 0
    assert tree(world.root / "coco") == tree(world.source / "coco")
    assert check_published(details, files_by_shots(details, None)).problems == []
    assert "val2017.zip: 2 files unpacked" in capsys.readouterr().out
    asked = len(world.site.requests)
    assert "val2017.zip: already there (val2017)" in cli("data", "get", "coco")
    assert len(world.site.requests) == asked == 3
    assert not (world.root / "coco" / ".downloads").exists()


def test_an_archive_placed_by_hand_is_compared_before_it_is_unpacked(world, cli):
    offer_coco(world)
    archive = world.root / "coco" / ".downloads" / "val2017.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(zipped({"val2017/1.jpg": b"another"}))
    assert "val2017.zip is not the published archive: its md5 is" in cli("data", "get", "coco", status=2)
    assert not (world.root / "coco" / "val2017").exists()
    archive.write_bytes(world.site.files["pub/val2017.zip"])
    assert main(["data", "get", "coco"]) == 0
    assert "pub/val2017.zip" not in {path for path, _ in world.site.requests}


def test_an_interrupted_unpacking_is_finished(world):
    offer_coco(world)
    assert main(["data", "get", "coco"]) == 0
    victim = world.root / "coco" / "train2017" / "000000000100.jpg"
    victim.write_bytes(b"half")
    (world.root / "coco" / ".downloads").mkdir(exist_ok=True)
    (world.root / "coco" / ".downloads" / "train2017.zip.unfinished").touch()
    assert main(["data", "get", "coco"]) == 0
    assert victim.read_bytes() == (world.source / "coco" / "train2017" / "000000000100.jpg").read_bytes()


def test_a_wrong_archive_is_refused(world, cli):
    offer_coco(world)
    world.site.files["pub/val2017.zip"] += b"x"
    assert "is not the expected file: its md5 is" in cli("data", "get", "coco", status=2)
    assert not (world.root / "coco" / "val2017").exists()


def test_an_archive_without_what_it_should_hold(world, cli):
    world.offer("val2017.zip", "coco", {"val2017/1.jpg": b"1"}, {"val2017": 5})
    assert "val2017.zip is incomplete: val2017 in" in cli("data", "get", "coco", status=2)


def test_offline_and_mirror(world, cli, monkeypatch):
    offer_coco(world)
    refusal = cli("data", "get", "coco", "--offline", status=2)
    assert "val2017.zip is not there, and downloads are switched off. It is published at" in refusal
    with serve(Site(files={f"copy/coco/{k.removeprefix('pub/')}": v for k, v in world.site.files.items()})) as mirror:
        monkeypatch.setenv("NTT_DATA_MIRROR", f"{mirror.url}/copy")
        assert main(["data", "get", "coco"]) == 0
        assert {path for path, _ in mirror.requests} >= {"copy/coco/val2017.zip"}
    assert world.site.requests == []


def offer_lvis(world: World) -> DatasetDetails:
    details = make_miniature("lvis_minival", world.source)
    world.offer("val2017.zip", "coco", world.below("coco", "val2017/"), {"val2017": 1})
    for name in ("lvis_v1_train.json", "lvis_v1_val.json"):
        world.offer(f"{name}.zip", "lvis", world.below("lvis", name), {name: 1})
    return details


def test_get_lvis_makes_minival(world):
    details = offer_lvis(world)
    expected = json.loads((world.source / "lvis" / "lvis_v1_minival.json").read_text())
    world.offer("train2017.zip", "coco", world.below("coco", "train2017/"), {"train2017": 3})
    assert main(["data", "get", "lvis_minival"]) == 0
    assert json.loads((world.root / "lvis" / "lvis_v1_minival.json").read_text()) == expected
    assert check_published(details, files_by_shots(details, None)).problems == []
    assert write_minival(world.root / "lvis") is None


def test_minival_needs_val(tmp_path):
    with refused(DataError, "There is no annotation file", "lvis_v1_val.json"):
        write_minival(tmp_path)
    elsewhere = '{"images": [{"id": 1, "coco_url": "x/train2017/1.jpg"}], "categories": []}'
    problems = {'{"images": [': "is not valid JSON", "{}": "is not in COCO format", elsewhere: "no image of val2017"}
    for content, text in problems.items():
        (tmp_path / "lvis_v1_val.json").write_text(content)
        with refused(DataError, "lvis_v1_val.json", text):
            write_minival(tmp_path)


def offer_voc(world: World):
    details = make_miniature("voc", world.source)
    files = tree(world.source / "voc")
    for name, year, stems, subset in (
        ("VOCtrainval_2007.tar", "VOC2007", ("000005", "000007"), "trainval"),
        ("VOCtest_2007.tar", "VOC2007", ("000001", "000002"), "test"),
        ("VOCtrainval_2012.tar", "VOC2012", ("2008_000008", "2008_000015"), "trainval"),
    ):
        members = {
            path: data
            for path, data in files.items()
            if f"/{year}/" in path and (Path(path).stem in stems or path.endswith(f"Main/{subset}.txt"))
        }
        world.offer(name, "voc", members, {f"VOCdevkit/{year}/ImageSets/Main/{subset}.txt": 1})
    lists = {name: data for name, data in files.items() if name.startswith("vocsplit/")}
    world.site.files.update(lists)
    return details, lists


def test_get_voc_converts_and_makes_the_few_shot_files(world, cli):
    details, lists = offer_voc(world)
    assert len(lists) == 5 * 20
    assert "5_shot.json: written" in cli("data", "get", "voc")
    assert check_published(details, files_by_shots(details, None)).problems == []
    trainval = json.loads((world.root / "voc" / "annotations" / "trainval0712.json").read_text())
    names = ("VOC2007/JPEGImages/000005", "VOC2007/JPEGImages/000007")
    names += ("VOC2012/JPEGImages/2008_000008", "VOC2012/JPEGImages/2008_000015")
    assert [image["file_name"] for image in trainval["images"]] == [f"{name}.jpg" for name in names]
    assert len({entry["id"] for entry in trainval["annotations"]}) == 48
    assert trainval["annotations"][0]["bbox"] == [10, 10, 40, 40]
    asked = len(world.site.requests)
    assert main(["data", "get", "voc"]) == 0
    assert len(world.site.requests) == asked


def test_few_shot_lists_keep_their_order_and_name_known_images(tmp_path):
    make_miniature("voc", tmp_path)
    root = tmp_path / "voc"
    convert_devkit(root)
    bird_list = root / "vocsplit" / list_name("bird", 1)
    bird_list.write_text("/any/where/VOC2012/JPEGImages/2008_000008.jpg\nVOC2007/JPEGImages/000005.jpg\n")
    write_kshot_files(root, (1,))
    content = json.loads((root / "annotations" / "1_shot.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    (bird,) = [entry for entry in content["annotations"] if entry["category_id"] == 3]
    assert names[bird["image_id"]] == "VOC2012/JPEGImages/2008_000008.jpg"
    assert write_kshot_files(root, (1,)) == []
    (root / "annotations" / "1_shot.json").unlink()
    bird_list.write_text("VOC2007/JPEGImages/999999.jpg\n")
    with pytest.raises(DataError, match="'999999' of the list is no image of VOC's trainval"):
        write_kshot_files(root, (1,))


def test_the_others_are_told_where_to_find_them(tmp_path, cli):
    out = cli("data", "get", "cdfsod_dior", "--data-root", tmp_path, status=1)
    assert "published at https://github.com/lovelyqian/CDFSOD-benchmark" in out
    for name in ("annotations/1_shot.json", "annotations/10_shot.json", "annotations/test.json", "train/", "test/"):
        assert f"  {tmp_path / 'DIOR'}/{name}\n" in out
    make_miniature("cdfsod_dior", tmp_path)
    assert "CD-FSOD, DIOR is present" in cli("data", "get", "cdfsod_dior", "--data-root", tmp_path)
    refusal = cli("data", "get", "imagenet", status=2)
    assert "There is no published data set named 'imagenet'. Available: coco, lvis," in refusal


def offer_lists(world: World, monkeypatch: pytest.MonkeyPatch, option: str = "cdfsod_uodd") -> DatasetDetails:
    """Serve the lists of a miniature; its images and test.json are at their place, its K_shot.json are not."""
    miniature = make_miniature(option, world.source)
    assert miniature.folder is not None
    shutil.copytree(world.source / miniature.folder, world.root / miniature.folder)
    lists = {}
    for shots, published in miniature.lists.items():
        path = list_path(world.root / miniature.folder, shots)
        world.site.files[f"pub/{path.name}"] = path.read_bytes()
        lists[shots] = replace(published, url=f"{world.site.url}/pub/{path.name}")
        path.unlink()
        path.with_name(f"{shots}_shot.json").unlink()
    details = replace(miniature, lists=lists)
    monkeypatch.setattr("ntt.cli.data_files.known_datasets", lambda: {option: details})
    return details


def test_get_kshot_lists(world, cli, monkeypatch):
    details = offer_lists(world, monkeypatch)
    assert "10_shot.json: written" in cli("data", "get", "cdfsod-lists")
    assert check_published(details, files_by_shots(details, None)).problems == []
    written, original = (
        read_coco(root / "UODD" / "annotations" / "5_shot.json", world.root / "UODD" / "train")
        for root in (world.root, world.source)
    )
    assert written.categories == original.categories
    sizes = [{i.file_name: (i.height, i.width) for i in data.images.values()} for data in (written, original)]
    assert sizes[0] == sizes[1]
    asked = len(world.site.requests)
    assert "has its K_shot.json already" in cli("data", "get", "cdfsod-lists")
    assert len(world.site.requests) == asked == 3


def test_kshot_lists_before_the_data_set(world, cli, monkeypatch):
    offer_lists(world, monkeypatch)
    shutil.rmtree(world.root / "UODD")
    assert "call again once annotations/test.json and train/ are there" in cli("data", "get", "cdfsod-lists")
    assert sorted(tree(world.root / "UODD")) == [f"annotations/{shots}_shot_converted.json" for shots in (10, 1, 5)]


def test_other_lists_than_the_published_ones(world, cli, monkeypatch):
    """A K_shot.json of the user's is kept, and compared; a list that was changed is refused."""
    offer_lists(world, monkeypatch)
    annotations = world.root / "UODD" / "annotations"
    own = json.loads((world.source / "UODD" / "annotations" / "1_shot.json").read_text())
    own["annotations"][0]["bbox"][0] += 1
    (annotations / "1_shot.json").write_text(json.dumps(own))
    assert "Fetch the list with `ntt data get cdfsod-lists`" in cli("data", "check", "cdfsod_uodd", status=1)
    assert main(["data", "get", "cdfsod-lists"]) == 0
    out = cli("data", "check", "cdfsod_uodd", status=1)
    assert "1_shot.json has other references than the benchmark's list. Classes that differ from " in out
    assert "1_shot_converted.json: seacucumber.\n" in out
    assert "other references" not in out.replace("1_shot.json has other references", "")
    path = annotations / "5_shot_converted.json"
    path.write_text(path.read_text().replace("UODD/train/", "UODD/train/../"))
    assert "5_shot_converted.json is not the published list" in cli("data", "get", "cdfsod-lists", status=2)
    with pytest.raises(DataError, match=r"is not below train/"):
        published_references(path)


def test_the_published_lists_are_recognised(shared_dir):
    """Digests of the files as they are published."""
    for details in known_datasets().values():
        for shots, published in details.lists.items():
            path = shared_dir / "kshot_lists" / f"{details.folder}_{shots}_shot.json"
            assert sha256_of(path) == published.sha256
            references = published_references(path)
            assert references_key(references) == published.references
            assert {name for name, _, _ in references} == set(details.class_names)
            assert len({image for _, image, _ in references}) == details.shot_images[shots]


def test_the_benchmark_as_its_users_have_it(shared_dir, tmp_path, cli):
    """UODD passes its check, lists included, and its references are those of the lists."""
    assert (
        cli("data", "check", "cdfsod_uodd", "--root", shared_dir / "data" / "cdfsod" / "UODD").count(
            "the references of the benchmark's list"
        )
        == 3
    )
    words = [
        *("dataset=cdfsod_uodd", "split=cdfsod_uodd", "shots=10shot", "stage=references"),
        *(f"runtime.data_root={shared_dir}/data/cdfsod", f"runtime.output_root={tmp_path}"),
    ]
    run(compose_config(words))
    references = json.loads(next(tmp_path.rglob("references.json")).read_text())["references"]
    assert [len(entries) for entries in references.values()] == [10, 10, 10]


def test_the_folder_of_one_data_set(world, cli):
    """`--root` names it for get as for check; of LVIS, the images stay those of coco/ beside it."""
    offer_lvis(world)
    assert main(["data", "get", "lvis", "--root", str(world.root / "L1")]) == 0
    assert {path.split("/")[0] for path in tree(world.root)} == {"L1", "coco"}
    assert "  /my/uodd/annotations/test.json\n" in cli("data", "get", "cdfsod_uodd", "--root", "/my/uodd", status=1)
    assert "cdfsod-lists serves six data sets" in cli("data", "get", "cdfsod-lists", "--root", "/my/uodd", status=2)
