"""Downloads published data sets, unpacks them, and writes the annotation files that the options read."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ntt.base.digests import digest_of, sha256_of
from ntt.base.download import download, mirrored_urls
from ntt.base.files import write_json, write_text
from ntt.convert.base import find_listed, read_list
from ntt.convert.coco_files import read_whole
from ntt.convert.voc import convert_voc
from ntt.data.documents import read_document
from ntt.datasets.published import cdfsod
from ntt.datasets.published.archives import unpack
from ntt.datasets.published.details import Archive, DatasetDetails, archives, few_shot_lists_url, known_datasets
from ntt.errors import DataError
from ntt.types import Category, Json

_DOWNLOADS = ".downloads"
_VOC_TRAINVAL = "annotations/trainval0712.json"
_VOC_TEST = "annotations/test2007.json"


@dataclass(frozen=True)
class Source:
    """Where to download from; `mirror` is a base URL that replaces the official hosts."""

    mirror: str | None = None
    offline: bool = False


def fetch_dataset(name: str, folder_of: Callable[[str], Path], source: Source) -> list[str]:
    """Make sure a data set (coco, lvis or voc) is complete; return what was done or already existed, in sentences.

    What is missing is downloaded, unpacked and converted; another call continues an interrupted one. `folder_of`
    returns the folder of coco, lvis or voc; LVIS needs the images of COCO. A DataError if an archive is damaged, or a
    download is needed while the network is switched off; a DownloadError if an archive is not available, or not the
    expected one.
    """
    report = [_fetch_archive(archive, folder_of(archive.into), source) for archive in archives(name)]
    if name == "lvis":
        minival = write_minival(folder_of("lvis"))
        report += [f"{minival}: the images of lvis_v1_val.json that belong to val2017"] if minival else []
    if name == "voc":
        written = convert_devkit(folder_of("voc")) + _few_shot_files(folder_of("voc"), source)
        report += [f"{path}: written" for path in written]
    return report


def _fetch_archive(archive: Archive, folder: Path, source: Source) -> str:
    unfinished = folder / _DOWNLOADS / f"{archive.file_name}.unfinished"
    if not unfinished.exists() and _is_provided(archive, folder):
        return f"{archive.file_name}: already there ({', '.join(archive.provides)})"
    file = folder / _DOWNLOADS / archive.file_name
    if file.is_file() and not unfinished.exists() and (digest := digest_of(file, "md5")) != archive.md5:
        what = f"its md5 is {digest}, that of the published file is {archive.md5}"
        raise DataError(f"{file} is not the published archive: {what}. Delete it to have it downloaded.")
    _download(archive.url, file, f"{archive.into}/{archive.file_name}", source, md5=archive.md5)
    write_text(unfinished, "This archive is being unpacked; `ntt data get` resumes where it stopped.\n")
    count = unpack(file, folder)
    if not _is_provided(archive, folder):
        listed = ", ".join(archive.provides)
        raise DataError(f"{file} is incomplete: {listed} in {folder} are not all there.")
    unfinished.unlink()
    file.unlink()
    with suppress(OSError):  # other archives remain
        file.parent.rmdir()
    return f"{archive.file_name}: {count} files unpacked into {folder}"


def _is_provided(archive: Archive, folder: Path) -> bool:
    """Return whether a folder holds what an archive provides, judging by names and numbers of files."""

    def count(path: Path) -> int:
        return sum(1 for _ in path.iterdir()) if path.is_dir() else int(path.is_file())

    return all(count(folder / name) >= number for name, number in archive.provides.items())


def _download(url: str, target: Path, relative_path: str, source: Source, **digest: str) -> None:
    if target.is_file():
        return
    if source.offline:
        raise DataError(f"{target} is not there, and downloads are switched off. It is published at {url}.")
    urls = [url] if source.mirror is None else mirrored_urls(source.mirror, url, relative_path)
    download(urls, target, label=f"file {target.name}", **digest)


def _few_shot_files(root: Path, source: Source) -> list[Path]:
    """Fetch the few-shot lists of VOC that are missing and write the files of `dataset=voc_kshot`."""
    details = known_datasets()["voc_kshot"]
    if all((root / "annotations" / f"{count}_shot.json").is_file() for count in details.shots):
        return []
    for shots in details.shots:
        for class_name in details.class_names:
            name = list_name(class_name, shots)
            _download(few_shot_lists_url() + name, root / "vocsplit" / name, f"voc/vocsplit/{name}", source)
    return write_kshot_files(root, details.shots)


def fetch_kshot_lists(datasets: Iterable[DatasetDetails], data_root: Path, source: Source) -> list[str]:
    """Fetch the k-shot lists of CD-FSOD that are missing, and write the `K_shot.json` of the data sets on disk.

    An existing `K_shot.json` is never changed. Returns what was done, and which data sets are not there yet, in
    sentences. A DataError if a list on disk is not the published one, or does not fit the data set; a DownloadError if
    one is not available, or not the expected one.
    """
    report = []
    for details in datasets:
        assert details.folder is not None, details.name
        root = data_root / details.folder
        for shots, published in details.lists.items():
            path = cdfsod.list_path(root, shots)
            relative_path = path.relative_to(data_root).as_posix()
            _download(published.url, path, relative_path, source, sha256=published.sha256)
            if sha256_of(path) != published.sha256:
                raise DataError(f"{path} is not the published list: its sha256 differs. Delete it and fetch it again.")
        if not ((root / cdfsod.TEST).is_file() and (root / cdfsod.IMAGES).is_dir()):
            report.append(f"{root}: lists fetched; call again once {cdfsod.TEST} and {cdfsod.IMAGES}/ are there")
            continue
        written = [file for shots in details.lists if (file := cdfsod.write_kshot_file(root, shots))]
        report += [f"{file}: written" for file in written] or [f"{root}: has its K_shot.json already"]
    return report


def write_minival(root: Path) -> Path | None:
    """Write LVIS minival, the images of val that belong to COCO's val2017, unless it exists; return it if written."""
    target, val_file = root / "lvis_v1_minival.json", root / "lvis_v1_val.json"
    if target.is_file():
        return None
    val = read_whole(val_file)
    images = [image for image in val["images"] if image.get("coco_url", "").split("/")[-2:-1] == ["val2017"]]
    if not images:
        raise DataError(f"{val_file} names no image of val2017 in `coco_url`. Fetch it again.")
    image_ids = {image["id"] for image in images}
    annotations = [entry for entry in val["annotations"] if entry["image_id"] in image_ids]
    write_json(target, {**val, "images": images, "annotations": annotations}, indent=None)
    return target


def convert_devkit(root: Path) -> list[Path]:
    """Write the annotation files of a folder that holds VOCdevkit, unless they exist; return those written."""
    devkit = root / "VOCdevkit"
    lists = {_VOC_TRAINVAL: ("VOC2007/trainval", "VOC2012/trainval"), _VOC_TEST: ("VOC2007/test",)}
    class_names = known_datasets()["voc"].class_names
    missing = [name for name in lists if not (root / name).is_file()]
    for name in missing:
        files = [devkit / part.replace("/", "/ImageSets/Main/") for part in lists[name]]
        converted = convert_voc(
            annotations=devkit,
            images=devkit,
            names=[stem for file in files for stem in read_list(file.with_suffix(".txt"))],
            categories=[Category(number, class_name) for number, class_name in enumerate(class_names, start=1)],
        )
        write_json(root / name, converted.document, indent=None)
    return [root / name for name in missing]


def list_name(class_name: str, shots: int) -> str:
    """Return the published file name of the list for a class and number of shots."""
    return f"box_{shots}shot_{class_name}_train.txt"


def write_kshot_files(root: Path, shots: Sequence[int]) -> list[Path]:
    """Write `annotations/K_shot.json` from the few-shot lists in `vocsplit/` unless they exist; return those written.

    A list names images by path, of which only the file name counts. The references of a class are its first k objects
    in these images, in the order of the list and, within an image, of its annotation file; difficult objects are
    skipped. (The program published with the lists draws k of them at random, without a seed.)
    """
    paths = {root / "annotations" / f"{count}_shot.json": count for count in shots}
    missing = {path: count for path, count in paths.items() if not path.is_file()}
    if not missing:
        return []
    trainval = read_document(root / _VOC_TRAINVAL)
    stems_of_ids = {image["id"]: (Path(image["file_name"]).stem,) for image in trainval["images"]}
    objects: dict[tuple[int, int], list[Json]] = defaultdict(list)
    for entry in trainval["annotations"]:
        if not entry["iscrowd"]:
            objects[entry["image_id"], entry["category_id"]].append(entry)
    for path, count in missing.items():
        references: list[Json] = []
        for category in trainval["categories"]:
            list_file = root / "vocsplit" / list_name(category["name"], count)
            stems = [Path(line).stem for line in read_list(list_file)]
            ids = find_listed(stems, stems_of_ids, f"VOC's trainval, for {list_file}")
            in_order = [entry for image_id in ids for entry in objects.get((image_id, category["id"]), ())]
            references += in_order[:count]
        used = {entry["image_id"] for entry in references}
        images = [image for image in trainval["images"] if image["id"] in used]
        document = {"images": images, "annotations": references, "categories": trainval["categories"]}
        write_json(path, document, indent=None)
    return list(missing)
