"""Stage `proposals`: how many objects the candidates cover, an upper bound for any matcher."""

from collections.abc import Sequence

from ntt.base.distributed import ProcessGroup, map_dealt
from ntt.data.coco import CocoDataset
from ntt.evaluation.ground_truth import prepare_ground_truth
from ntt.evaluation.proposals import average_recall, finding_ranks
from ntt.stages.candidates import CandidateSource
from ntt.types import Category, ImageRecord, IntArray, ProposalRecall


def measure_proposals(
    *,
    images: Sequence[ImageRecord],
    source: CandidateSource,
    ground_truth: CocoDataset,
    categories: Sequence[Category],
    group: ProcessGroup,
) -> ProposalRecall:
    """Compute the average recall of the candidates over the objects of the searched classes (docs/evaluation.md).

    Returns:
        "bbox" and, where all objects have masks, "segm" -> "AR100", "AR300", "AR1000", percent. Empty without objects.
    """
    prepared = prepare_ground_truth(ground_truth, categories)

    def ranks(record: ImageRecord) -> dict[str, IntArray]:
        return finding_ranks(source.get(record), prepared, record.id)

    annotated = [image for image in images if len(prepared.objects_of_image[prepared.image_indices[image.id]])]
    return average_recall(map_dealt(ranks, annotated, group=group, label="proposals", unit="image"))
