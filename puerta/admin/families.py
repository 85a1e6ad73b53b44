"""Metric families from plain samples."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

Sample = tuple[tuple[str, ...], float]


def gauge(name: str, help: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> Metric:
    family = GaugeMetricFamily(name, help, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def counter(name: str, help: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> Metric:
    """`name` is without its `_total`, which the exposition adds."""
    family = CounterMetricFamily(name, help, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def info(name: str, help: str, values: dict[str, str]) -> Metric:
    family = InfoMetricFamily(name, help)
    family.add_metric((), values)
    return family
