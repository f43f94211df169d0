"""Charts for a page, as BokehJS reads them. Colours of text and grids are set in the page, which knows its theme."""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_COLOURS = ("#3b82c4", "#c2691d", "#2f9e6e", "#a064c8", "#c4517f", "#7d8790")
"""Seen on white and on near-black alike; neighbours differ for the colour-blind too (after Okabe and Ito)."""
_DASHES = ("solid", "dashed", "dotted", "dashdot", "dotdash")
_MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex")
_STATES = {"durable": None, "cached": "/", "memory": "x", "other": "."}
"""Where an operation's effect was at the cut, and the pattern of its bar."""


class Chart(NamedTuple):
    """`item`: what `Bokeh.embed.embed_item` takes; `label`: what it shows, for those who do not see it."""

    label: str
    item: dict[str, Any]
    height: int


def _models() -> Any:
    """Imported when a chart is made: bokeh takes most of a second. Its types know half of what its models take."""
    from bokeh import models

    return models


def _chart(label: str, root: Any, height: int) -> Chart:
    from bokeh.embed import json_item

    item: dict[str, Any] = json.loads(json.dumps(json_item(root)))
    return Chart(label, item, height)


def _figure(height: int, **options: Any) -> Any:
    """A plot without a toolbar, as wide as its place, on no background of its own."""
    from bokeh.plotting import figure

    plot = figure(height=height, sizing_mode="stretch_width", toolbar_location=None, output_backend="canvas", **options)
    plot.background_fill_alpha = plot.border_fill_alpha = 0
    plot.outline_line_color = None
    return plot


def line_chart(
    title: str, xs: Sequence[float], series: Mapping[str, Sequence[float]], *, x_label: str, y_label: str
) -> Chart:
    """One line for each of `series`, told apart by colour, dash and marker. All are as long as `xs`."""

    plot = _figure(280, title=title, tools="", x_axis_label=x_label, y_axis_label=y_label)
    looks = zip(itertools.cycle(_COLOURS), itertools.cycle(_DASHES), itertools.cycle(_MARKERS), strict=False)
    few = len(xs) <= 60
    for (name, values), (colour, dash, marker) in zip(series.items(), looks, strict=False):
        columns = {"x": list(xs), "y": list(values), "name": [name] * len(xs)}
        line = plot.line("x", "y", source=columns, line_color=colour, line_dash=dash, line_width=2, legend_label=name)
        if few:
            plot.scatter("x", "y", source=line.data_source, marker=marker, size=7, color=colour, legend_label=name)
    plot.add_tools(_models().HoverTool(tooltips=[("", "@name"), (x_label, "@x{0.[00]}"), (y_label, "@y{0,0.[00]}")]))
    if plot.legend:
        plot.legend.location, plot.legend.background_fill_alpha, plot.legend.border_line_color = "top_left", 0, None
        plot.add_layout(plot.legend[0], "below")
        plot.legend.orientation = "horizontal"
    return _chart(f"{title}: {', '.join(series)} over {x_label}", plot, 280)


def heat_map(
    title: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]]
) -> Chart:
    """`values[row][column]` as coloured cells with the number in them; None is an empty, hatched cell."""

    height = 90 + 26 * max(1, len(rows))
    x, y = _models().FactorRange(*columns), _models().FactorRange(*reversed(rows))
    plot = _figure(height, title=title, tools="", x_range=x, y_range=y, x_axis_location="above")
    highest = max((value for line in values for value in line if value is not None), default=0.0)
    cells = [
        (row, column, value)
        for row, line in zip(rows, values, strict=True)
        for column, value in zip(columns, line, strict=True)
    ]
    shades = [_shade(value, highest) for _, _, value in cells]
    source = {
        "row": [row for row, _, _ in cells],
        "column": [column for _, column, _ in cells],
        "text": ["" if value is None else f"{value:,.4g}" for _, _, value in cells],
        "fill": [fill for fill, _ in shades],
        "ink": [ink for _, ink in shades],
        "hatch": ["/" if value is None else " " for _, _, value in cells],
    }
    rect = plot.rect(
        "column",
        "row",
        0.96,
        0.92,
        source=source,
        fill_color="fill",
        line_color=None,
        hatch_pattern="hatch",
        hatch_color="#7d8790",
        hatch_alpha=0.5,
    )
    plot.text(
        "column",
        "row",
        text="text",
        source=rect.data_source,
        text_color="ink",
        text_align="center",
        text_baseline="middle",
        text_font_size="12px",
    )
    plot.add_tools(_models().HoverTool(renderers=[rect], tooltips=[("", "@row"), ("", "@column"), ("", "@text")]))
    plot.grid.grid_line_color = None
    plot.xaxis.major_label_orientation = 0.6 if len(columns) > 6 else "horizontal"
    return _chart(f"{title}: {len(rows)} rows by {len(columns)} columns", plot, height)


def _shade(value: float | None, highest: float) -> tuple[str, str]:
    """Fill and ink of a cell: from nearly white to dark blue, and black or white, whichever stands out more."""
    if value is None:
        return "rgba(0,0,0,0)", "#7d8790"
    share = min(1.0, max(0.0, value / highest)) if highest else 0.0
    light, dark = (237, 244, 250), (8, 64, 129)
    fill = [round(a + (b - a) * share) for a, b in zip(light, dark, strict=True)]
    white = 1.05 / (_luminance(fill) + 0.05)
    return "#" + "".join(f"{part:02x}" for part in fill), "#ffffff" if white >= 4.6 else "#000000"


def _luminance(color: Sequence[int]) -> float:
    """Of an sRGB colour, 0 to 1. Source: WCAG 2.2, "relative luminance"; 4.5 is the contrast that it asks for."""
    parts = [part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in color]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def timeline() -> Chart:
    """Two plots over one axis of events: operations as bars, and below them the block log. The page fills them."""
    from bokeh.layouts import column

    events = _models().Range1d(start=0, end=1, name="events")
    steps = _steps_plot(events)
    log = _log_plot(events)
    return _chart("Timeline", column(steps, log, sizing_mode="stretch_width", spacing=0), 480)


def _tools() -> list[Any]:

    return [
        _models().BoxZoomTool(dimensions="width"),
        _models().PanTool(dimensions="width"),
        _models().WheelZoomTool(dimensions="width", modifiers="ctrl"),
        _models().TapTool(),
    ]


def _source(name: str, *columns: str) -> Any:

    return _models().ColumnDataSource({column: [] for column in columns}, name=f"{name} source")


def _marked(plot: Any) -> None:
    """The power cut, what comes after it, and the event that the reader looks at."""

    plot.add_layout(_models().BoxAnnotation(name="after", fill_alpha=0.12, fill_color="#7d8790", level="underlay"))
    plot.add_layout(_models().Span(name="cut", dimension="height", line_width=4))
    plot.add_layout(_models().Span(name="here", dimension="height", line_width=1, line_dash="dotted", visible=False))


def _steps_plot(events: Any) -> Any:

    plot = _figure(
        160, name="steps", tools=_tools(), x_range=events, y_range=_models().Range1d(start=0, end=1, name="step rows")
    )
    columns = ("y", "begin", "end", "until", "fill", "text", "state", "result", "index")
    bars = []
    # One pattern for each renderer: a pattern that differs from bar to bar costs a canvas for each.
    for state, pattern in _STATES.items():
        source = _source(state, *columns)
        plot.segment("end", "y", "until", "y", source=source, line_color="fill", line_width=2, line_dash="dotted")
        bar = plot.hbar(
            y="y",
            left="begin",
            right="end",
            height=0.62,
            source=source,
            fill_color="fill",
            line_color="fill",
            hatch_pattern=pattern,
            hatch_color="#ffffff",
            hatch_alpha=0.6,
        )
        bar.nonselection_glyph = None
        bars.append(bar)
    promises = plot.scatter(
        "x",
        "y",
        source=_source("promises", "x", "y", "text", "index", "color"),
        marker="inverted_triangle",
        size=12,
        fill_color="color",
        line_color="color",
    )
    promises.nonselection_glyph = None
    plot.add_tools(
        _models().HoverTool(
            renderers=bars, tooltips=[("operation", "@text"), ("at the cut", "@state"), ("result", "@result")]
        )
    )
    plot.add_tools(_models().HoverTool(renderers=[promises], tooltips=[("promise", "@text"), ("event", "@x")]))
    plot.yaxis.ticker = _models().FixedTicker(ticks=[], name="step ticks")
    plot.xaxis.visible = False
    plot.ygrid.grid_line_color = None
    _marked(plot)
    return plot


def _log_plot(events: Any) -> Any:

    plot = _figure(
        260,
        name="log",
        tools=_tools(),
        x_range=events,
        y_range=_models().Range1d(start=0, end=1, name="rows"),
        x_axis_label="event of the block log",
    )
    plot.vspan(
        x="x",
        source=_source("flushes", "x"),
        name="flush lines",
        line_color="#7d8790",
        line_width=1,
        line_alpha=0.9,
        level="underlay",
    )
    source = _source("writes", "x", "y", "marker", "color", "alpha", "line", "size", "name", "place", "state", "index")
    writes = plot.scatter(
        "x",
        "y",
        source=source,
        marker="marker",
        size="size",
        fill_color="color",
        line_color="color",
        fill_alpha="alpha",
        line_alpha="line",
        line_width=1.5,
    )
    writes.nonselection_glyph = None
    plot.scatter(
        "x", "y", source=_source("lost", "x", "y", "color"), marker="x", size=15, line_color="color", line_width=2
    )
    plot.scatter(
        "x",
        "y",
        source=_source("here", "x", "y", "color"),
        marker="circle",
        size=22,
        fill_color=None,
        line_color="color",
        line_width=2,
    )
    what = [("event", "@x"), ("write of", "@name"), ("where", "@place"), ("state", "@state")]
    plot.add_tools(_models().HoverTool(renderers=[writes], tooltips=what))
    plot.yaxis.ticker = _models().FixedTicker(ticks=[], name="row ticks")
    plot.yaxis.name = "by kind"
    plot.add_layout(
        _models().LinearAxis(name="by offset", visible=False, formatter=_models().NumeralTickFormatter(format="0 ib")),
        "left",
    )
    plot.xaxis.formatter = _models().NumeralTickFormatter(format="0,0")
    _marked(plot)
    return plot
