"""Several collections of metrics as one text."""

from collections.abc import Iterable, Iterator

from prometheus_client import Metric, generate_latest
from prometheus_client.registry import Collector


def exposition(collections: Iterable[Iterable[Metric]]) -> bytes:
    """In Prometheus' text format, each family once, with the samples of all collections that have it."""
    return generate_latest(_Merged(collections))


class _Merged(Collector):
    def __init__(self, collections: Iterable[Iterable[Metric]]) -> None:
        self._collections = collections

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for collection in self._collections:
            for metric in collection:
                if metric.name in families:
                    families[metric.name].samples.extend(metric.samples)
                else:
                    families[metric.name] = metric
        return iter(families.values())
