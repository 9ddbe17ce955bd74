"""Prometheus metrics of one API process. No label holds a user, a session or an item."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1, 2.5)


class Metrics:
    """All of them, in a registry of their own, so that two applications may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter("recsys_api_requests", "answers", ["route", "status"], registry=r)
        self.seconds = Histogram("recsys_api_request_seconds", "time to answer", ["route"], buckets=SECONDS, registry=r)
        self.pages = Counter("recsys_api_pages", "pages of recommendations", ["surface", "rung"], registry=r)
        self.items = Counter("recsys_api_items", "items shown", ["surface", "source"], registry=r)
        self.stage = Histogram("recsys_api_stage_seconds", "time of a stage", ["stage"], buckets=SECONDS, registry=r)
        self.falls = Counter("recsys_api_falls", "a stage that did not serve, and why", ["stage", "why"], registry=r)
        self.filtered = Counter("recsys_api_filtered_items", "candidates dropped by rule", ["rule"], registry=r)
        self.relaxed = Counter("recsys_api_relaxed_slots", "slots at which a rule gave way", ["rule"], registry=r)
        self.events = Counter("recsys_api_events", "events received", ["outcome"], registry=r)
        self.unknown_items = Counter(
            "recsys_api_unknown_item_events", "events accepted whose item no catalogue knows", registry=r
        )
        self.decisions = Counter("recsys_api_decisions", "decisions logged or lost", ["outcome"], registry=r)
        arm = ["experiment", "variant"]
        self.exposures = Counter("recsys_api_exposures", "pages that a variant served", arm, registry=r)
        self.missed = Counter("recsys_api_missed_variants", "it could not serve, and why", [*arm, "why"], registry=r)
        self.errors = Counter("recsys_api_errors", "unexpected errors", ["kind"], registry=r)
        self.quality = Gauge(
            "recsys_api_quality_factor",
            "share of the candidates that pages ask for; 1 unless models are slow",
            registry=r,
        )
        self.release = Gauge(
            "recsys_api_release", "1 for the release that serves, 0 for those before it", ["release"], registry=r
        )
        self.data = Gauge(
            "recsys_api_release_data_timestamp_seconds",
            "Unix time up to which the data of the release that serves reach; its age is time() less this",
            registry=r,
        )
        self._served: set[str] = set()

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def serves(self, release: str, as_of: float) -> None:
        """Say which release serves, and how far its data reach; those before it stay, at 0."""
        self.data.set(as_of)
        for known in self._served:
            self.release.labels(known).set(0)
        self._served.add(release)
        self.release.labels(release).set(1)
