"""The table that ends a multirun."""

from collections.abc import Sequence

from ntt.config.identity import run_directory, run_identity
from ntt.config.schema import ExperimentConfig
from ntt.errors import StorageError
from ntt.matchers.auto import AutoMatcher
from ntt.run.artefacts import flat_metrics, read_metrics, read_scoring
from ntt.run.rundir import RunDirectory
from ntt.run.table import align

_METRICS = {"bbox/AP": "box AP", "segm/AP": "mask AP"}


def multirun_table(configs: Sequence[ExperimentConfig]) -> str:
    """Return one line per point, with the settings that differ between points, and how to compare them further."""
    settings = [run_identity(config)["settings"] for config in configs]
    all_keys = dict.fromkeys(key for own in settings for key in own)
    keys = [key for key in all_keys if any(own.get(key) != settings[0].get(key) for own in settings)]
    keys = [key for key in keys if not _follows_from_name(key, settings)]
    scorings = [_scoring(config) for config in configs]
    keys += ["chosen"] if any(scorings) else []
    rows = [(*keys, *_METRICS.values(), "directory")]
    for config, own, scoring in zip(configs, settings, scorings, strict=True):
        folder = RunDirectory(run_directory(config))
        metrics = flat_metrics(read_metrics(folder.metrics)) if folder.metrics.is_file() else {}
        values = [f"{metrics[name]:.1f}" if name in metrics else "-" for name in _METRICS]
        named = own | ({"chosen": scoring} if scoring else {})
        rows.append((*(str(named.get(key, "-")) for key in keys), *values, str(folder.root)))
    roots = dict.fromkeys(config.runtime.output_root for config in configs)
    return "\n".join(
        [*align(rows), "", *(f"Means over seeds, comparisons, plots: ntt report {root}" for root in roots)]
    )


def _scoring(config: ExperimentConfig) -> str:
    """Return the matcher that the references of a run have chosen; "" if they did not, or it is unknown."""
    if not isinstance(config.matcher, AutoMatcher):
        return ""
    try:
        return read_scoring(RunDirectory(run_directory(config)).leave_one_out, config.matcher.choices)
    except StorageError:
        return ""


def _follows_from_name(key: str, settings: Sequence[dict[str, object]]) -> bool:
    """Return whether a setting of an option, such as `matcher.ridge`, is the same wherever the option's name is."""
    name = f"{key.partition('.')[0]}.name"
    pairs = {(repr(own.get(name)), repr(own.get(key))) for own in settings}
    return key != name and len(pairs) == len({option for option, _ in pairs}) > 1
