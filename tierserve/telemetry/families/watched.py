"""Counters that others keep, read when scraped."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

Count = Callable[[], float]


class Watched(Collector):
    """One family of them. Each of `series`, the labels' values, stands at zero until somebody counts it."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        help: str,
        labels: Sequence[str] = (),
        series: Iterable[Sequence[str]] = ((),),
    ) -> None:
        self._name, self._help, self._labels = name, help, labels
        self._counts: dict[tuple[str, ...], Count] = {tuple(values): _nobody for values in series}
        registry.register(self)

    def watch(self, count: Count, *values: str) -> None:
        """From now on the series with these labels' values is what `count` says."""
        self._counts[values] = count

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, count in self._counts.items():
            family.add_metric(values, count())
        yield family


def _nobody() -> float:
    return 0.0
