"""Medians of what was measured, as tables for a person and as JSON."""

from statistics import median

from .loads import COLUMNS
from .servers import SERVERS


def medians(load, results):
    """The median of each column over the rounds, by server."""
    figures = {}
    for server, rounds in results.items():
        values = {key: [COLUMNS[key].value(r) for r in rounds] for key in load.columns}
        figures[server] = {key: median(v) for key, v in values.items() if v and None not in v}
    return figures


def report(loads, measured, failures):
    """What came of each load, ready to be printed or written as JSON."""
    reports = []
    for load in loads:
        figures = medians(load, measured.get(load.name, {}))
        kinds = {server.name: server.kind for server in SERVERS[load.door]}
        bars = [(bar, bar.judge(figures, kinds)) for bar in load.bars]
        reports.append((load, figures, bars, failures.get(load.name, {})))
    return reports


def as_json(reports):
    return [
        {
            "door": load.door,
            "load": load.name,
            "medians": figures,
            "bars": [{"bar": str(bar), "value": j and j[0], "met": j and bool(j[1])} for bar, j in bars],
            "skipped": failed,
        }
        for load, figures, bars, failed in reports
    ]


def show(reports):
    for load, figures, bars, failed in reports:
        print(f"\n{load.door}: {load.name}")
        titles = [COLUMNS[key].title for key in load.columns]
        print(f"  {'':16}" + "".join(f"{title:>14}" for title in titles))
        for server, values in figures.items():
            cells = [format(values[key], COLUMNS[key].form) if key in values else "-" for key in load.columns]
            print(f"  {server:16}" + "".join(f"{cell:>14}" for cell in cells))
        for server, why in failed.items():
            print(f"  {server:16}  skipped: {' '.join(why.split())}")
        for bar, judged in bars:
            verdict = "not comparable" if judged is None else f"{judged[0]:.3g}, {'met' if judged[1] else 'MISSED'}"
            print(f"  bar: {bar}: {verdict}")
