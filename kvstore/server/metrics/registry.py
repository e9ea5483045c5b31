"""What this member publishes: the values that somebody feeds, by the names of the catalog.

The code that counts asks for its values when it is made (`metrics.counter(...)`) and keeps them; what is known anyway
(the revision, the raft state, sizes) is read by a callable at the time of a scrape. What nobody asked for is not
published: better no metric than one that is always zero. Knows names and values, not the text they become (export.py).
"""

from collections.abc import Mapping
from typing import TypeVar

from kvstore.server.metrics.catalog import CATALOG, Kind, Spec
from kvstore.server.metrics.values import Counter, Family, FamilySource, Gauge, Histogram, Source

Fed = Counter | Gauge | Histogram | Family[Counter] | Family[Gauge] | Family[Histogram] | Source | FamilySource

F = TypeVar("F", bound=Fed)


class Metrics:
    """The metrics of one member; several members in one process have one each.

    Every method raises KeyError for a name that the catalog does not have, TypeError for one of another type or with or
    without labels against what was asked, and ValueError for one that is fed already.
    """

    __slots__ = ("fed",)

    def __init__(self) -> None:
        self.fed: dict[str, Fed] = {}

    def counter(self, name: str) -> Counter:
        self._claim(name, "counter", labelled=False)
        return self._feed(name, Counter())

    def counters(self, name: str) -> Family[Counter]:
        return self._feed(name, Family(self._claim(name, "counter", labelled=True).labels, Counter))

    def gauge(self, name: str) -> Gauge:
        self._claim(name, "gauge", labelled=False)
        return self._feed(name, Gauge())

    def gauges(self, name: str) -> Family[Gauge]:
        return self._feed(name, Family(self._claim(name, "gauge", labelled=True).labels, Gauge))

    def histogram(self, name: str) -> Histogram:
        return self._feed(name, Histogram(self._claim(name, "histogram", labelled=False).bounds))

    def histograms(self, name: str) -> Family[Histogram]:
        spec = self._claim(name, "histogram", labelled=True)
        return self._feed(name, Family(spec.labels, lambda: Histogram(spec.bounds)))

    def read(self, name: str, source: Source) -> None:
        """Publish a counter or gauge that is known elsewhere. source: called at every scrape."""
        self._claim(name, _read_kind(name), labelled=False)
        self.fed[name] = source

    def read_all(self, sources: Mapping[str, Source]) -> None:
        """`read` for each of several names."""
        for name, source in sources.items():
            self.read(name, source)

    def read_family(self, name: str, source: FamilySource) -> None:
        """Publish a counter or gauge with labels. source: called at every scrape; gives the values by label values."""
        self._claim(name, _read_kind(name), labelled=True)
        self.fed[name] = source

    def unfed(self) -> list[str]:
        """Names of the catalog that are not published, for whoever wires a member."""
        return [name for name in CATALOG if name not in self.fed]

    def _claim(self, name: str, kind: Kind, *, labelled: bool) -> Spec:
        spec = CATALOG[name]
        if spec.kind != kind or bool(spec.labels) != labelled:
            raise TypeError(f"{name} is a {spec.kind} with labels {spec.labels!r}")
        if name in self.fed:
            raise ValueError(f"{name} is fed already")
        return spec

    def _feed(self, name: str, value: F) -> F:
        self.fed[name] = value
        return value


def _read_kind(name: str) -> Kind:
    kind = CATALOG[name].kind
    if kind == "histogram":
        raise TypeError(f"{name} is a histogram; it is observed, not read")
    return kind
