"""Charts are well-formed SVG that shows every point where it belongs."""

from xml.etree import ElementTree

import pytest

from kvbench.plot import HEIGHT, WIDTH, Panel, svg

SVG = "{http://www.w3.org/2000/svg}"


def placed(text: str, line: int) -> list[tuple[float, float]]:
    found = ElementTree.fromstring(text).iter(f"{SVG}polyline")
    points = list(found)[line].get("points", "").split()
    return [(float(x), float(y)) for x, y in (point.split(",") for point in points)]


def test_points_stand_in_order_at_even_distances_of_their_logarithms() -> None:
    text = svg([Panel("rate", "keys", {"put": [(1000, 5), (10, 10), (100, 0)]})])
    (x1, y1), (x2, y2), (x3, y3) = placed(text, 0)
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 < y3 < y2
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in placed(text, 0))


def test_every_series_of_every_panel_is_named_and_drawn() -> None:
    text = svg([Panel("a < b", "x", {"put": [(1, 1)], "get": [(1, 2)]}), Panel("c", "y", {"put": [(2, 0)]})])
    root = ElementTree.fromstring(text)
    words = [element.text for element in root.iter(f"{SVG}text")]
    assert words.count("put") == 2
    assert {"a < b", "c", "get", "x", "y"} <= set(words)
    assert len(list(root.iter(f"{SVG}polyline"))) == 3


def test_a_panel_without_points_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        svg([Panel("empty", "x", {"put": []})])
