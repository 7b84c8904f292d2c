"""Stage `matching`: names for candidates."""

from collections.abc import Callable, Iterator, Sequence

from ntt.base.distributed import ProcessGroup
from ntt.base.progress import track
from ntt.errors import DataError
from ntt.matchers.base import MatcherConfig
from ntt.matchers.scoring import match_together
from ntt.stages.candidates import CandidateSource
from ntt.stages.dealing import map_dealt
from ntt.types import Detections, ImageRecord, Prototypes


def match_images(
    *,
    images: Sequence[ImageRecord],
    source: CandidateSource,
    prototypes: Prototypes,
    matcher: MatcherConfig,
    group: ProcessGroup,
    on_detections: Callable[[ImageRecord, Detections], None] | None = None,
) -> list[Detections]:
    """Label, thin out and score every image's candidates (METHOD 5 and 6; paper, sections 3.3 and 3.4).

    Args:
        images: the target images.
        source: gives their candidates.
        prototypes: what the candidates are compared with.
        matcher: how they are compared and merged.
        group: the processes of the run; images are dealt out over them.
        on_detections: called with every image as soon as it is done, in the process that did it.

    Returns:
        One entry per image, in the order of `images`, in every process.
    """

    def match(record: ImageRecord) -> Detections:
        detections = matcher.match(record.id, source.get(record), prototypes)
        if on_detections is not None:
            on_detections(record, detections)
        return detections

    return map_dealt(match, images, group=group, label="matching", unit="image")


def match_points(
    *, images: Sequence[ImageRecord], source: CandidateSource, points: Sequence[tuple[MatcherConfig, Prototypes]]
) -> Iterator[list[Detections | DataError]]:
    """Do what `match_images` does for several points in one pass: each image's candidates are read once.

    Args:
        images: the target images.
        source: gives their candidates.
        points: matchers with the prototypes they made.

    Yields:
        For each image what each point's `match` returns or raises, equal to the last bit.
    """
    for record in track(images, "matching", unit="image", visible=True):
        yield list(match_together(record.id, source.get(record), points))
