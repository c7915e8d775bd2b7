"""The report's pictures: small SVG panels that read on a phone, on paper, in the light and in the dark."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

from runtime import EpochRecord, MissingExtraError, ShapePlan

INK, MUTED, GRID, BEFORE, AFTER, PAPER = "#1c2430", "#66707f", "#dde2e8", "#9aa5b5", "#0b6bcb", "#ffffff"
SECOND, THIRD = "#b4530a", "#0c7a6b"
COLOURS = {
    **{INK: "--ink", MUTED: "--muted", GRID: "--line", BEFORE: "--before", AFTER: "--after", PAPER: "--card"},
    **{SECOND: "--second", THIRD: "--third"},
}
"""Each colour and the CSS variable that stands for it when a picture is set into a page."""

TITLE_PAD = 19
"""Points between title and panel; leaves a line for the legend."""

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

Draw = Callable[[Any], None]

_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.parse_math": False,  # a file's name may hold dollar signs
}


def render(draw: Draw, *, size: tuple[float, float] = (3.6, 2.5), salt: str) -> str:
    """Returns a panel as an SVG document, byte for byte the same each time.

    Args:
        draw: draws into the matplotlib axes it is given.
        size: size of the panel, inches.
        salt: seed of the SVG's ids, different for each picture of a page.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "bench") from None
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=size, layout="constrained", facecolor=PAPER)
        canvas = FigureCanvasSVG(figure)
        axes = figure.add_subplot(facecolor=PAPER)
        axes.tick_params(length=0)
        draw(axes)
        buffer = io.StringIO()
        canvas.print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return buffer.getvalue()


def in_rows(panels: Sequence[str], columns: int) -> str:
    """Returns panels as one SVG document, in rows.

    Args:
        panels: results of ``render``, all of one size and of different salts.
        columns: panels in a row.
    """
    width, height = map(float, _view_box(panels[0]).split()[2:])
    rows = math.ceil(len(panels) / columns)
    whole = f"{columns * width:g} {rows * height:g}"
    size = 'width="{}pt" height="{}pt"'.format(*whole.split())
    parts = [f'<svg xmlns="{_SVG}" xmlns:xlink="{_XLINK}" {size} viewBox="0 0 {whole}" version="1.1">']
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        place = f'x="{column * width:g}" y="{row * height:g}" width="{width:g}" height="{height:g}"'
        parts.append(f'<svg {place} viewBox="{_view_box(panel)}">{_body(panel).strip()}')
    return "\n".join([*parts, "</svg>"]) + "\n"


def inline(svg: str, label: str) -> str:
    """Returns an SVG document as an element for a page: sized by the page, coloured by its variables.

    Args:
        svg: result of ``render``.
        label: description of the picture, for screen readers.
    """
    body, view_box = _body(svg), _view_box(svg)
    for colour, variable in COLOURS.items():
        body = body.replace(colour, f"var({variable})")
    width = float(view_box.split()[2])
    return (
        f'<svg xmlns:xlink="{_XLINK}" xmlns="{_SVG}" viewBox="{view_box}" '
        f'style="max-width: {1.6 * width:.0f}px" role="img" aria-label="{html.escape(label)}">{body}'
    )


def _body(svg: str) -> str:
    """Returns the content of the outermost element, with its end tag."""
    return svg[svg.index(">", svg.index("<svg")) + 1 :]


def _view_box(svg: str) -> str:
    return svg[svg.index("viewBox=") :].split('"')[1]


def widths(name: str, title: str, baseline: ShapePlan | None, sliced: ShapePlan | None) -> Draw:
    """Returns a panel of one width of every block, before and after.

    Args:
        name: the field of ``BlockPlan``.
        title: title of the panel.
        baseline: the unpruned plan.
        sliced: the smaller plan.
    """

    def draw(axes: Any) -> None:
        for plan, colour, label, share in ((baseline, BEFORE, "baseline", 0.8), (sliced, AFTER, "sliced", 0.46)):
            if plan is None:
                continue
            values = [getattr(block, name) for block in plan.blocks]
            axes.bar(range(1, len(values) + 1), values, share, color=colour, label=label)
        axes.set_title(title, pad=TITLE_PAD)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("block")
        legend_above(axes)

    return draw


def curves(title: str, unit: str, series: Sequence[tuple[str, Sequence[EpochRecord], str, bool]]) -> Draw:
    """Returns a panel of training curves.

    Args:
        title: title of the panel.
        unit: unit of the vertical axis; ``%`` scales shares of 0..1.
        series: label, epochs, field of ``EpochRecord``, and whether it is the sliced model's.
    """

    def draw(axes: Any) -> None:
        scale = 100.0 if unit == "%" else 1.0
        for label, epochs, field, is_sliced in series:
            axes.plot(
                [record.epoch for record in epochs],
                [scale * getattr(record, field) for record in epochs],
                color=AFTER if is_sliced else BEFORE,
                marker="o",
                markersize=3.2,
                linewidth=1.8,
                label=label,
            )
        axes.set_title(f"{title}, {unit}", pad=TITLE_PAD)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("epoch")
        legend_above(axes)

    return draw


def legend_above(axes: Any, columns: int = 4) -> None:
    """Sets the legend between the title and the panel."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.03, 0.97), ncols=columns, handlelength=1.4, columnspacing=1.2)
