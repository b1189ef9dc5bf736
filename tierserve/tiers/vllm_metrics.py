"""vLLM's Prometheus metrics, a registry for each engine.

vLLM registers them globally and unregisters whatever an earlier engine left there, so that of two engines only the
second would be seen. Here each engine's logger creates its metrics in a registry of its own.
"""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from vllm.v1.metrics.loggers import PrometheusStatLogger


def stat_logger(registry: CollectorRegistry) -> type[PrometheusStatLogger]:
    """The class of stat logger to hand to AsyncLLM, which takes it in place of its global one."""

    class EngineMetrics(PrometheusStatLogger):
        _gauge_cls = partial(Gauge, registry=registry)
        _counter_cls = partial(Counter, registry=registry)
        _histogram_cls = partial(Histogram, registry=registry)

    return EngineMetrics
