"""vLLM's Prometheus metrics, a registry for each engine.

vLLM registers them globally and unregisters whatever an earlier engine left there, so that of two engines only the
second would be seen. Here each engine's logger creates its metrics in a registry of its own.
"""

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats


def stat_logger(
    registry: CollectorRegistry, waiting: dict[int, int], kv_used: dict[int, float], stepped: Callable[[], None]
) -> type[PrometheusStatLogger]:
    """The class of stat logger to hand to AsyncLLM, which takes it in place of its global one.

    After each step it also calls `stepped`, and notes how many requests each core's scheduler keeps waiting and which
    part of its KV cache is taken.
    """

    class EngineMetrics(PrometheusStatLogger):
        _gauge_cls = partial(Gauge, registry=registry)
        _counter_cls = partial(Counter, registry=registry)
        _histogram_cls = partial(Histogram, registry=registry)

        def record(
            self,
            scheduler_stats: SchedulerStats | None,
            iteration_stats: IterationStats | None,
            mm_cache_stats: MultiModalCacheStats | None = None,
            engine_idx: int = 0,
        ) -> None:
            stepped()
            super().record(scheduler_stats, iteration_stats, mm_cache_stats, engine_idx)
            if scheduler_stats is not None:
                waiting[engine_idx] = scheduler_stats.num_waiting_reqs
                kv_used[engine_idx] = scheduler_stats.kv_cache_usage

    return EngineMetrics
