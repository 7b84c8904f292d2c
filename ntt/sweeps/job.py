"""A job: the work of one launch of the program, the same on this machine and on a cluster."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """A share of a unit of shared work: its items `index::count`."""

    unit: str
    index: int
    count: int

    @property
    def task(self) -> str:
        """The name under which its state is kept."""
        return f"{self.unit}.{self.index}of{self.count}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Shards of shared work, or points.

    Attributes:
        shards: distributed over the processes of the job; () for points.
        points: ids of the points, which all processes run together; () for shards.
        needs: tasks of shared work that must be done before the points are run.
    """

    shards: tuple[Shard, ...] = ()
    points: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names under which the states of this work are kept."""
        return self.points or tuple(shard.task for shard in self.shards)

    def only(self, tasks: list[str]) -> "Job":
        """Return the part of this job that does some of its tasks."""
        shards = tuple(shard for shard in self.shards if shard.task in tasks)
        return Job(shards=shards, points=tuple(point for point in self.points if point in tasks), needs=self.needs)
