"""Draws the cost of a pick by the number of deployments, from the measurements of compare.py.

    python benches/plot.py
    python benches/plot.py --json target/compare.json --output docs/cost.svg

Each router is a band from its fastest strategy to its slowest, with a thin line for every strategy. The names
of these two stand beside it. The same measurement gives the same bytes, with the same version of Matplotlib.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

ROOT = Path(__file__).resolve().parent.parent
SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib
    "font.size": 10,
    "svg.fonttype": "path",  # the same letters everywhere
    "svg.hashsalt": "turnout",  # the same ids every time
}
INK, FAINT = "#222222", "#777777"
LABEL_GAP = 1.9  # the least distance of two labels, as a ratio of what they stand at


@dataclass(frozen=True, slots=True)
class Look:
    """How a router is drawn. Colour-blind readers can tell the colours apart, which are dark enough for text.
    A marker helps too.
    """

    title: str
    colour: str
    marker: str


LOOKS = {
    "turnout": Look("turnout", "#0067a5", "o"),
    "twin": Look("pure Python", "#8f4a80", "s"),
    "litellm": Look("LiteLLM", "#bf4d00", "^"),
    "azure-switchboard": Look("azure-switchboard", "#00785a", "D"),
}


@dataclass(frozen=True, slots=True)
class Label:
    """A text at the end of a line, in seconds above the axis."""

    text: str
    n: int
    seconds: float
    colour: str


def curves(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[tuple[int, float]]]:
    """Return the seconds that a router's picks take, with the number of deployments, by strategy."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row["operation"] == "select" and name in row["ns"]:
            found.setdefault(row["strategy"], []).append((row["n"], row["ns"][name] / 1e9))
    return {strategy: sorted(points) for strategy, points in found.items()}


def draw_router(axes: Axes, look: Look, by_strategy: Mapping[str, Sequence[tuple[int, float]]]) -> list[Label]:
    """Draw a router's band and lines, and return the labels of its fastest and slowest strategy."""
    at: dict[int, list[float]] = {}
    for points in by_strategy.values():
        axes.plot(*zip(*points, strict=True), color=look.colour, linewidth=0.9, marker=look.marker, markersize=3.5)
        for n, seconds in points:
            at.setdefault(n, []).append(seconds)
    sizes = sorted(at)
    axes.fill_between(sizes, [min(at[n]) for n in sizes], [max(at[n]) for n in sizes], color=look.colour, alpha=0.15, linewidth=0)
    ends = sorted((points[-1][1], points[-1][0], strategy) for strategy, points in by_strategy.items())
    if len(ends) == 1:
        (seconds, n, _strategy) = ends[0]
        return [Label(look.title, n, seconds, look.colour)]
    return [Label(f"{look.title}, {strategy}", n, seconds, look.colour) for seconds, n, strategy in (ends[0], ends[-1])]


def apart(labels: Sequence[Label]) -> list[float]:
    """Return the places of labels, so that none covers another. The labels are given from left to right and
    from the lowest up.
    """
    places = [label.seconds for label in labels]
    for _ in labels:
        for i, (low, high) in enumerate(pairwise(places)):
            if labels[i].n == labels[i + 1].n and high < low * LABEL_GAP:
                middle = (low * high) ** 0.5
                places[i], places[i + 1] = middle / LABEL_GAP**0.5, middle * LABEL_GAP**0.5
    return places


def caption(result: Mapping[str, Any]) -> str:
    """Describe the measurement: its subject, place and date."""
    machine, settings = result["machine"], result["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items() if number)
    return (
        f"One pick without a reservation, through Python: turnout's and the pure-Python twin's select, LiteLLM's "
        f"get_available_deployment, azure-switchboard's _select. Median of {settings['processes']} processes "
        f"(where set-up takes long, one). {machine['cpu']}, {machine['cores']} cores; {result['python']}; {versions}; "
        f"{result['date'][:10]}."
    )


def draw(result: Mapping[str, Any]) -> Figure:
    """Draw the figure."""
    figure = Figure(figsize=(10, 6.2), facecolor="white")
    axes = figure.add_axes((0.1, 0.185, 0.66, 0.755), facecolor="white")
    axes.set(xscale="log", yscale="log", xlabel="number of deployments (log scale)", ylabel="time of one pick (log scale)")
    axes.set_title("What a pick costs, by the number of deployments of the model", loc="left", color=INK, fontsize=12)
    labels: list[Label] = []
    for name, look in LOOKS.items():
        if by_strategy := curves(result["rows"], name):
            labels += draw_router(axes, look, by_strategy)
    most = max(row["n"] for row in result["rows"])
    axes.set_xlim(right=1.08 * most)
    if floor := result["floors"].get("native call"):
        axes.axhline(floor / 1e9, color=FAINT, linestyle=(0, (5, 3)), linewidth=1.2)
        labels.append(Label("empty native call", most, floor / 1e9, FAINT))
    labels.sort(key=lambda label: (label.n, label.seconds))
    for label, place in zip(labels, apart(labels), strict=True):
        text = label.text if label.n == most else label.text.replace(", ", ",\n")  # narrow where other lines go on
        axes.annotate(
            text,
            (label.n, place),
            (7, 0),
            textcoords="offset points",
            color=label.colour,
            fontsize=9,
            verticalalignment="center",
            annotation_clip=False,
        )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(numticks=12))
    axes.yaxis.set_major_formatter(EngFormatter("s"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(which="major", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    figure.text(0.02, 0.02, fill(caption(result), 150), color=FAINT, fontsize=8, va="bottom", linespacing=1.4)
    return figure


def main() -> None:
    """Read the measurement and write the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, default=ROOT / "target" / "compare.json", help="what compare.py wrote")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "cost.svg", help="where the figure goes, as SVG")
    options = parser.parse_args()
    result = json.loads(options.json.read_text())
    with mpl.rc_context(SETTINGS):
        draw(result).savefig(options.output, format="svg", metadata={"Title": "What a pick costs", "Creator": None, "Date": None})


if __name__ == "__main__":
    main()
