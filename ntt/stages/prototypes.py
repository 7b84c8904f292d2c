"""Stage `prototypes`: what candidates are compared with."""

from ntt.matchers.base import MatcherConfig
from ntt.types import MemoryBank, Prototypes


def build_prototypes(*, memory: MemoryBank, matcher: MatcherConfig) -> Prototypes:
    """Condense the memory into the vectors the matcher compares candidates with (METHOD 3; paper, section 3.2)."""
    vectors_PD, labels_P = matcher.build_prototypes(memory)
    return Prototypes(categories=memory.categories, vectors_PD=vectors_PD, labels_P=labels_P)
