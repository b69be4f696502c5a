"""A plot for each program, where matplotlib is installed. Medians; whiskers are quartiles."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from common import RESULTS, Cell, Report, size

_OURS, _LIMIT, _OTHERS = "#1f6f4a", "#9a9a9a", ("#c8553d", "#e0a458", "#5b7db1", "#8e6c9e", "#b0a08a")
_COLOURS = {
    "ours": _OURS,
    "ours, 1 MiB": _OURS,
    "ours, cached keys": "#7fb79b",
    "ours, 64 KiB": "#4f9c77",
    "ours, bytes": "#9bcbb3",
    "limit": _LIMIT,
    "bare GenerateDataKey": _LIMIT,
    "official SDK": _OTHERS[0],
    "official SDK in a thread": _OTHERS[1],
    "official SDK, default executor": _OTHERS[0],
    "official SDK, 64 threads": _OTHERS[1],
    "official SDK, in threads": _OTHERS[0],
    "official SDK, in the loop": _OTHERS[1],
    "MPL keyring": _OTHERS[2],
    "MPL keyring, in threads": _OTHERS[2],
    "pyrage": _OTHERS[3],
    "pyrage, in threads": _OTHERS[3],
    "tink": _OTHERS[4],
    "tink, in threads": _OTHERS[4],
    "pread, to_thread": _LIMIT,
    "pread, our hop": _OTHERS[1],
    "copy and fsync": _LIMIT,
    "version 1, in place": "#9bcbb3",
    "version 1, copied": "#4f9c77",
    "version 2, re-encrypted": _OURS,
    "encrypted": _OURS,
    "plain": _LIMIT,
}
_SERIES = {
    "length": "length of the message",
    "frame": "frame length",
    "read": "n of read(n)",
    "idle": "idle streams",
    "busy": "busy streams of 1 MiB",
}
_COUNTS = ("frames of a read, most", "header", "final frame")


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, list[Any]] | None:
    """Return a figure and its panels, row by row; None without matplotlib."""
    if not importlib.util.find_spec("matplotlib"):
        print("\nNo plot: matplotlib is not installed.")
        return None
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams.update(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
    )
    figure, panels = pyplot.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained"
    )
    return figure, list(panels.flat)


def _save(figure: Any, report: Report) -> None:
    figure.suptitle(report.program + (" (quick: the figures mean nothing)" if report.quick else ""))
    path = RESULTS / f"{report.program}.png"
    figure.savefig(path, dpi=130)
    print(f"\n{path}")


def _bars(panel: Any, groups: Sequence[str], figures: dict[str, list[Any]], unit: str, log: bool) -> None:
    """Draw groups of bars: for each name a spread in each group, or None."""
    width = 0.84 / len(figures)
    for i, name in enumerate(figures):
        there = [(group, spread) for group, spread in enumerate(figures[name]) if spread]
        places = [group + (i - (len(figures) - 1) / 2) * width for group, _ in there]
        heights = [spread.median for _, spread in there]
        whiskers = [
            [spread.median - spread.low for _, spread in there],
            [spread.high - spread.median for _, spread in there],
        ]
        style = {"elinewidth": 0.8, "ecolor": "#333333"}
        panel.bar(
            places, heights, width * 0.92, color=_COLOURS[name], label=name, yerr=whiskers, error_kw=style
        )
    panel.set_xticks(range(len(groups)), groups)
    panel.set_ylabel(unit)
    panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    if log:
        panel.set_yscale("log")


def _legend(figure: Any, panel: Any, columns: int) -> None:
    """Put one legend for all panels below them."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def _names(cells: Sequence[Cell], hidden: Sequence[str] = ()) -> list[str]:
    return list(dict.fromkeys(name for cell in cells for name in cell.samples if name not in hidden))


def versus_peers(report: Report) -> None:
    """Draw rates by suite and direction."""
    if not (made := _figure(2, 2, 11, 8)):
        return
    figure, panels = made
    kinds = [(suite, direction) for suite in ("unsigned", "signed") for direction in ("encrypt", "decrypt")]
    for panel, (suite, direction) in zip(panels, kinds, strict=True):
        cells = [cell for cell in report.cells if cell.matches(suite=suite, direction=direction)]
        names = [name for name in _names(cells) if not name.startswith("sha384")]
        figures = {
            name: [cell.of(name) if name in cell.samples else None for cell in cells] for name in names
        }
        _bars(panel, [f"frames of {size(cell.labels['frame'])}" for cell in cells], figures, "MB/s", log=True)
        panel.set_title(f"{suite}, {direction}; limit: bare {'SHA-384' if suite == 'signed' else 'AES-GCM'}")
        panel.set_ylim(bottom=100)
    _legend(figure, panels[0], 5)
    _save(figure, report)


def loop_delay(report: Report) -> None:
    """Draw the delay by number of streams."""
    if not (made := _figure(1, 2, 12, 5.5)):
        return
    figure, panels = made
    idle = next(cell for cell in report.cells if cell.matches(who="idle"))
    running = [cell for cell in report.cells if cell.labels["streams"] and cell.labels["frame"] == 4096]
    kinds: dict[str, list[Cell]] = {}
    for cell in running:
        labels = cell.labels
        what = f", {labels['suite']} {labels['direction']}" if labels["who"] == "ours" else ""
        kinds.setdefault(labels["who"] + what, []).append(cell)
    for panel, name in zip(panels, ("p99", "MB/s"), strict=True):
        styles = iter(("-", "--", "-.", ":"))
        for who, cells in kinds.items():
            mine = who.startswith("ours")
            look = {"color": _OURS, "linestyle": next(styles)} if mine else {"color": _COLOURS[who]}
            x = range(len(cells))
            panel.plot(
                x, [cell.of(name).median for cell in cells], marker="o", markersize=4, label=who, **look
            )
        panel.set_xticks(range(3), ("1 stream", "4 streams", "16 streams"))
        panel.set_yscale("log")
        panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    panels[0].axhline(idle.of("p99").median, color=_LIMIT, linestyle="--", label="idle")
    panels[0].set_title("p99 delay of a timer of 1 ms, milliseconds")
    panels[1].set_title("total rate, MB/s (frames of 4 KiB)")
    _legend(figure, panels[0], 4)
    _save(figure, report)


def small_messages(report: Report) -> None:
    """Draw the time of a round trip."""
    if not (made := _figure(2, 2, 11, 7)):
        return
    figure, panels = made
    kinds = [(suite, at_once) for suite in ("unsigned", "signed") for at_once in (1, 200)]
    for panel, (suite, at_once) in zip(panels, kinds, strict=True):
        cells = [cell for cell in report.cells if cell.matches(suite=suite, at_once=at_once)]
        names = [name for name in _names(cells) if not name.startswith("sha384")]
        figures = {name: [cell.of(name) for cell in cells] for name in names}
        _bars(panel, [size(cell.labels["size"]) for cell in cells], figures, "microseconds", log=True)
        panel.set_title(f"{suite}, {'one after another' if at_once == 1 else f'{at_once} at a time'}")
        panel.set_ylim(10, 10_000)
    _legend(figure, panels[0], 3)
    _save(figure, report)


def concurrency(report: Report) -> None:
    """Draw rates and latencies."""
    if not (made := _figure(1, 2, 11, 4.5)):
        return
    figure, panels = made
    cell = report.cells[0]
    contestants = list(dict.fromkeys(name.rpartition(", ")[0] for name in cell.samples if ": rate" in name))
    states = ("warm", "cold")
    titles = {"rate": "encryptions in a second", "p99": "99 % are done within, milliseconds"}
    for panel, (kind, title) in zip(panels, titles.items(), strict=True):
        figures = {name: [cell.of(f"{name}, {state}: {kind}") for state in states] for name in contestants}
        _bars(panel, states, figures, "", log=True)
        for bars in panel.containers:
            if hasattr(bars, "patches"):
                panel.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
        panel.set_title(title)
        panel.set_ylim(bottom=10)
    _legend(figure, panels[0], 4)
    _save(figure, report)


def scaling(report: Report, per_mib: Callable[[Cell], float]) -> None:
    """Draw time and memory of every series; per MiB where not every case has the same length."""
    if not (made := _figure(2, len(_SERIES), 17, 7)):
        return
    figure, panels = made
    for column, (name, title) in enumerate(_SERIES.items()):
        cells = [cell for cell in report.cells if cell.matches(series=name)]
        above, below = panels[column], panels[column + len(_SERIES)]
        by_mib = name in ("frame", "read")
        _lines(above, cells, per_mib if by_mib else lambda cell: cell.of("seconds").median)
        _lines(below, cells, lambda cell: cell.of("peak, MiB").median)
        above.set_yscale("log")
        above.set_title("milliseconds per MiB" if by_mib else "seconds", fontsize=9)
        below.set_title("peak memory above idle, MiB", fontsize=9)
        below.set_ylim(0, max(9, below.get_ylim()[1]))
        counted = name in ("idle", "busy")
        ticks = sorted({cell.labels["x"] for cell in cells})[:: 1 if counted else 2]
        for panel in (above, below):
            panel.set_xlabel(title)
            panel.set_xticks(ticks, [str(x) if counted else size(x) for x in ticks], fontsize=7)
            panel.minorticks_off()
    panels[0].legend(fontsize=8)
    _save(figure, report)


def _lines(panel: Any, cells: Sequence[Cell], value: Callable[[Cell], float]) -> None:
    for what, colour in (("encrypt", _OURS), ("decrypt", _OTHERS[0])):
        for suite, style in (("unsigned", "-"), ("signed", "--")):
            points = [cell for cell in cells if cell.matches(what=what, suite=suite)]
            if points:
                x, y = [cell.labels["x"] for cell in points], [value(cell) for cell in points]
                panel.plot(x, y, style, color=colour, marker="o", markersize=3, label=f"{what}, {suite}")
    panel.set_xscale("log")
    panel.grid(color="#dddddd", linewidth=0.6)


def imports(report: Report) -> None:
    """Draw the time of the imports."""
    if not (made := _figure(1, 1, 8, 3)):
        return
    figure, (panel,) = made
    cell = report.cells[0]
    names = list(cell.samples)[::-1]
    for place, (name, colour) in enumerate(zip(names, (_LIMIT, _OTHERS[1], _OURS), strict=True)):
        spread = cell.of(name)
        whiskers = [[spread.median - spread.low], [spread.high - spread.median]]
        panel.barh(place, spread.median, 0.6, color=colour, xerr=whiskers)
        panel.text(spread.high, place, f"  {spread.median:.0f} ms, {cell.labels['modules'][name]} modules")
    panel.set_yticks(
        range(len(names)),
        [name.replace(", crypt", ",\ncrypt").replace(" RawAES", "\nRawAES") for name in names],
    )
    panel.set_xlim(right=panel.get_xlim()[1] * 1.5)
    panel.set_xlabel("milliseconds")
    _save(figure, report)


def data(report: Report) -> None:
    """Draw random reads, rewrapping, and the delays in services."""
    if not (made := _figure(1, 3, 13, 4)):
        return
    figure, (left, middle, right) = made
    for panel, what, hidden in ((left, "random reads", _COUNTS), (middle, "rewrap", ())):
        cell = next(cell for cell in report.cells if cell.matches(what=what))
        figures = {name: [cell.of(name)] for name in _names([cell], hidden)}
        _bars(panel, [""], figures, "seconds", log=what == "rewrap")
        panel.set_title(what)
    services = [cell for cell in report.cells if cell.matches(what="service")]
    groups = [(cell, phase) for cell in services for phase in ("uploads", "downloads")]
    delays = {
        mode: [cell.of(f"{mode}, {phase}: p99, ms") for cell, phase in groups]
        for mode in ("encrypted", "plain")
    }
    _bars(right, [f"{cell.labels['framework']},\n{phase}" for cell, phase in groups], delays, "", log=True)
    right.set_title("p99 delay of a timer of 1 ms, milliseconds")
    for panel in (left, middle, right):
        panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
    _save(figure, report)
