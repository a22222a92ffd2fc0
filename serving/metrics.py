"""Metrics, by the names of vLLM's, which autoscalers and dashboards know."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.engines.port import Engine

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The server's own registry of metrics."""

    def __init__(self, engine: Engine | None, not_followed: Callable[[], Mapping[str, str]]) -> None:
        """not_followed: returns the names whose last good version goes on, with the reasons."""
        self.registry = CollectorRegistry()
        self.first_token = Histogram(
            "vllm:time_to_first_token_seconds",
            "From a routed request to its first text",
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._prompts = Counter("vllm:prompt_tokens", "Tokens of prompts", registry=self.registry)
        self._generated = Counter("vllm:generation_tokens", "Generated tokens", registry=self.registry)
        self.shadow = Counter(
            "melo:shadow_comparisons",
            "Questions to aliases with a shadow, by what the comparison found",
            ["alias", "outcome"],
            registry=self.registry,
        )
        self.registry.register(_NotFollowed(not_followed))
        if engine is not None:
            self.registry.register(_Queue(engine))

    def answered(self, prompt_tokens: int, generated_tokens: int) -> None:
        self._prompts.inc(prompt_tokens)
        self._generated.inc(generated_tokens)


class _NotFollowed(Collector):
    """The names that should be followed, and are not, when somebody asks."""

    def __init__(self, not_followed: Callable[[], Mapping[str, str]]) -> None:
        self._not_followed = not_followed

    def collect(self) -> Iterator[Metric]:
        text = "Names whose change does not verify or cannot be loaded: the log has the reason"
        found = GaugeMetricFamily("melo:not_followed", text, labels=["name"])
        for name in sorted(self._not_followed()):
            found.add_metric([name], 1)
        yield found


class _Queue(Collector):
    """What waits and runs, and how much of prompts was not computed again, when somebody asks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        asked, reused = self._engine.prompt_tokens
        for name, text, value in (
            ("vllm:num_requests_waiting", "Requests that wait", self._engine.waiting),
            ("vllm:num_requests_running", "Requests that are being answered", self._engine.running),
            ("vllm:prefix_cache_queries", "Tokens of prompts", asked),
            ("vllm:prefix_cache_hits", "Of these, taken from earlier prompts", reused),
        ):
            yield GaugeMetricFamily(name, text, value=value)
