"""What is wrong with a whole configuration: values out of range, and settings that contradict each other."""

from collections import Counter

from ntt.base.settings import setting_problems
from ntt.config.schema import ExperimentConfig, ShotsConfig, SplitConfig


def problems(config: ExperimentConfig) -> list[str]:
    """Return every problem, one sentence each."""
    return [
        *setting_problems(config),
        *_shots_problems(config.shots),
        *_split_problems(config.split),
    ]


def _shots_problems(shots: ShotsConfig) -> list[str]:
    if shots.count is not None or shots.sampler == "fixed":
        return []
    return ["shots.count=null is possible with shots.sampler=fixed only. Choose shots=all or shots=1shot, for example."]


def _split_problems(split: SplitConfig) -> list[str]:
    if split.classes is None:
        return []
    if not split.classes:
        return ["split.classes is empty: at least one class name is needed. Use split=all for all classes."]
    repeated = sorted(name for name, count in Counter(split.classes).items() if count > 1)
    messages = [f"split.classes names {', '.join(repeated)} more than once."] if repeated else []
    if split.frequency is not None:
        messages.append("split.frequency and split.classes exclude each other. Leave out one of the two.")
    return messages
