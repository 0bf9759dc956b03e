"""Curves as SVG that takes the page's colours, light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np

# Told apart with all kinds of colour vision (Okabe and Ito), on white and on black.
COLOURS = ('#2185d0', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00', '#8f8f8f', '#b8a800')
DASHES = 'solid', 'dashed', 'dotted'
# matplotlib writes it; the page's own colour of text replaces it
_INK = '#010203'
_MOST_POINTS = 500


def draw_chart(
    lines: Sequence[tuple[str, str, Sequence[tuple[float, float]]]],
    x_label: str,
    label: str,
    log_x: bool = False,
) -> str:
    """A chart as SVG, whose text and axes have the colour of the text around it.

    Args:
        lines: Colour, dashes and points of each; a value may be no number, which leaves a gap.
        x_label: Of the x axis.
        label: What the values are, for who cannot see the chart.
        log_x: True for resolutions.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

    style = {
        'svg.fonttype': 'none',
        'svg.hashsalt': label,  # the same curves give the same file
        'font.family': 'sans-serif',
        'font.size': 9,
        'text.color': _INK,
        'axes.edgecolor': _INK,
        'axes.labelcolor': _INK,
        'xtick.color': _INK,
        'ytick.color': _INK,
        'axes.spines.top': False,
        'axes.spines.right': False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.2, 2.6), layout='constrained')
        axes = figure.subplots()
        for colour, dashes, points in lines:
            xs, ys = np.asarray(_thinned(points), dtype=float).T
            ys = np.where(np.isfinite(ys), ys, np.nan)
            marker = 'o' if len(xs) < 30 else ''
            axes.plot(xs, ys, color=colour, linestyle=dashes, marker=marker, markersize=3)
        axes.ticklabel_format(useOffset=False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if log_x:
            axes.set_xscale('log')
            sizes = sorted({x for *_, points in lines for x, _ in points})
            axes.set_xticks(sizes)
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
            axes.tick_params(axis='x', rotation=45)
        axes.set_xlabel(x_label)
        axes.grid(alpha=0.25)
        text = io.StringIO()
        figure.savefig(
            text, format='svg', transparent=True, metadata={'Date': None, 'Creator': None}
        )
    svg = text.getvalue()
    svg = svg[svg.index('<svg') :].replace(_INK, 'currentColor')
    svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', '<g', svg)  # the same in every chart, and nothing refers to them
    # the width is the page's
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1', svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1', svg, count=1)
    head = f'<svg role="img" aria-label="{_escaped(label)}"'
    return svg.replace('<svg', head, 1)


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    step = -(-len(points) // _MOST_POINTS)
    return [*points[::step], points[-1]] if step > 1 else points


def _escaped(text: str) -> str:
    return text.replace('&', '&amp;').replace('"', '&quot;').replace('<', '&lt;')
