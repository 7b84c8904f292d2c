"""Stages `prototypes` and `matching`: vectors to compare candidates with, and the candidates' labels."""

from collections.abc import Iterator, Sequence

from ntt.base.distributed import ProcessGroup, map_dealt
from ntt.base.progress import track
from ntt.errors import DataError, StorageError
from ntt.matchers.scoring import DetectingMatcher, match_together
from ntt.stages.candidates import CandidateSource
from ntt.types import Candidates, Detections, ImageRecord, MemoryBank, Prototypes


def build_prototypes(*, memory: MemoryBank, matcher: DetectingMatcher) -> Prototypes:
    """Condense the memory into the vectors that candidates are compared with (method.md §3; paper, section 3.2)."""
    vectors_PD, labels_P = matcher.build_prototypes(matcher.select(memory))
    return Prototypes(categories=memory.categories, vectors_PD=vectors_PD, labels_P=labels_P)


def match_images(
    *,
    images: Sequence[ImageRecord],
    source: CandidateSource,
    prototypes: Prototypes,
    matcher: DetectingMatcher,
    group: ProcessGroup,
) -> list[Detections]:
    """Label, suppress and score every image's candidates (method.md §5 and §6; paper, sections 3.3 and 3.4).

    Images are distributed over the processes; each returns the detections of all images, in order.
    """

    def match(record: ImageRecord) -> Detections:
        return matcher.match(record.id, _candidates(record, source, prototypes), prototypes)

    return map_dealt(match, images, group=group, label="matching", unit="image")


def match_points(
    *, images: Sequence[ImageRecord], source: CandidateSource, points: Sequence[tuple[DetectingMatcher, Prototypes]]
) -> Iterator[list[Detections | DataError]]:
    """Do what `match_images` does for several points in one pass, reading each image's candidates once.

    Yields for each image what each point's `match` returns or raises, equal to the last bit.
    """
    for record in track(images, "matching", unit="image", visible=True):
        yield list(match_together(record.id, _candidates(record, source, points[0][1]), points))


def _candidates(record: ImageRecord, source: CandidateSource, prototypes: Prototypes) -> Candidates:
    """Return an image's candidates, whose features must be as long as those of the references."""
    candidates = source.get(record)
    channels, expected = candidates.features.shape[1], prototypes.vectors_PD.shape[1]
    if channels != expected:
        raise StorageError(
            f"{source.store.path('candidates', source.key(record))} holds features of {channels} channels, the "
            f"references have {expected}. Remove it and run the same command again."
        )
    return candidates
