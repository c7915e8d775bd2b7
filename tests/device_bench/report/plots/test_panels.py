import re
import xml.etree.ElementTree as ElementTree
from unittest.mock import MagicMock

import numpy as np
import pytest

from device_bench.report.plots import latency as latency_plots
from device_bench.report.plots import panels as plots
from device_bench.report.plots import times as times_plots
from device_bench.report.plots import tradeoff as tradeoff_plots
from device_bench.report.tradeoffs import Point, Tradeoff

SVG = "{http://www.w3.org/2000/svg}"


def words(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def tradeoff(*points):
    return Tradeoff("latency", "median latency, ms", str, tuple(Point(*point) for point in points))


def drawn(found):
    names = {point.file: point.file for point in found.points}
    return plots.render(tradeoff_plots.tradeoff(found, names), size=tradeoff_plots.SIZE_IN, salt="test")


def test_a_picture_is_the_same_each_time():
    draw = latency_plots.shape("a", [0.001, 0.002, 0.003], False)
    assert plots.render(draw, salt="x") == plots.render(draw, salt="x")
    assert plots.render(draw, salt="x") != plots.render(draw, salt="y")


def test_panels_stand_beside_each_other_without_sharing_an_id():
    panels = [plots.render(latency_plots.shape(name, [0.001, 0.002], False), salt=name) for name in "abc"]
    root = ElementTree.fromstring(plots.in_rows(panels, 2))
    inner = root.findall(f"{SVG}svg")
    width, height = map(float, inner[0].get("viewBox").split()[2:])
    assert [(float(panel.get("x")), float(panel.get("y"))) for panel in inner] == [(0, 0), (width, 0), (0, height)]
    assert list(map(float, root.get("viewBox").split())) == [0, 0, 2 * width, 2 * height]
    clips = [element.get("id") for element in root.iter(f"{SVG}clipPath")]
    assert clips
    assert len(set(clips)) == len(clips)


def test_a_label_with_markup_stays_a_label():
    svg = plots.render(latency_plots.shape("a", [0.001, 0.002], False), salt="x")
    element = plots.inline(svg, 'a "quoted" <name>')
    assert ElementTree.fromstring(element).get("aria-label") == 'a "quoted" <name>'


@pytest.mark.parametrize("count", [1, 2, 30, 20_000])
def test_a_shape_tells_its_percentiles_and_stays_small(count):
    values = np.random.default_rng(0).gamma(3, 0.001, count).tolist()
    svg = plots.render(latency_plots.shape("a.tflite", values, False), salt="x")
    p50, p90, p99 = np.percentile(values, (50, 90, 99)) * 1e3
    assert f"p50 {p50:.2f} · p90 {p90:.2f} · p99 {p99:.2f} ms" in "\n".join(words(svg)).replace("  ", " ")
    assert len(svg) < 40_000


def test_two_modes_are_two_hills():
    values = [0.001 + 1e-6 * (i % 7) for i in range(150)] + [0.0013 + 1e-6 * (i % 7) for i in range(50)]
    axes = MagicMock()
    latency_plots.shape("a", values, False)(axes)
    heights = axes.stairs.call_args.args[0].tolist()
    filled = [index for index, height in enumerate(heights) if height]
    assert sum(heights) == 200
    assert filled[0] == 0
    assert max(np.diff(filled)) > 10  # the valley between them is empty


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_times_that_do_not_differ_are_drawn(value):
    assert "a" in words(plots.render(latency_plots.shape("a", [value * 1e-3] * 40, True), salt="x"))


def test_names_with_dollars_are_no_formula():
    assert "$a$b" in words(plots.render(latency_plots.shape("$a$b", [0.001, 0.002], True), salt="x"))


def test_every_file_on_the_frontier_is_named():
    found = tradeoff(("slow", 9.0, 0.98, True), ("fast", 1.0, 0.9, True), ("beaten", 9.5, 0.8, False))
    svg = drawn(found)
    assert {"slow", "fast", "beaten", "median latency, ms"} <= set(words(svg))
    assert plots.PAPER in re.sub(r"<g id=\"patch_[12]\">.*?</g>", "", svg, flags=re.DOTALL)  # hollow: not of the target


def test_a_muted_name_without_room_is_left_out():
    """All dots lie on one place, so only the names around it find room."""
    crowd = [(f"a-rather-long-name-{index}", 1.0 + index * 1e-4, 0.9 - index * 1e-6, True) for index in range(40)]
    told = [word for word in words(drawn(tradeoff(*crowd))) if "long-name" in word]
    assert "a-rather-long-name-0" in told
    assert len(told) < 40


@pytest.mark.parametrize("points", [[("a", 1.0, 0.9, True)], [("a", 0.0, 1.0, True), ("b", 0.0, 1.0, True)]])
def test_a_tradeoff_of_one_place_is_drawn(points):
    assert "a" in words(drawn(tradeoff(*points)))


def test_costs_far_apart_have_a_logarithmic_axis():
    ticks = words(drawn(tradeoff(("a", 0.02, 0.9, True), ("b", 90.0, 0.95, True))))
    assert {"0.1", "1", "10"} <= set(ticks)


def test_the_shortest_bars_are_one():
    times = {f"Op{index}": 1.0 / (index + 1) for index in range(12)}
    shown = times_plots.longest_first(times)
    assert len(shown) == times_plots.MOST + 1
    assert shown[-1] == ("5 others", pytest.approx(sum(1.0 / (index + 1) for index in range(7, 12))))
    assert times_plots.longest_first({"a": 1.0}) == [("a", 1.0)]
    svg = plots.render(times_plots.bars("x.onnx", [("MatMul", 0.003), ("Add", 0.0)], 0.003, False), salt="x")
    assert {"x.onnx", "MatMul", "3.00 ms, 100 %", "0, 0 %"} <= set(words(svg))
