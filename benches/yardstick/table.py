"""Medians of the measurements, as tables and as JSON."""

from statistics import median

from .loads import COLUMNS
from .servers import BEFORE, SERVERS, US


def medians(load, results):
    """The median of each column over the rounds, by server."""
    figures = {}
    for server, rounds in results.items():
        values = {key: [COLUMNS[key].value(r) for r in rounds] for key in load.columns}
        figures[server] = {key: median(v) for key, v in values.items() if v and None not in v}
    return figures


def paired(load, results):
    """The median ratio, over the rounds, of isowire to the build of `--before`, by column."""
    kinds = {server.kind: results.get(server.name, []) for server in SERVERS[load.protocol] if server.kind in (US, BEFORE)}
    ratios = {}
    for key in load.columns:
        value = COLUMNS[key].value
        pairs = [(value(now), value(then)) for now, then in zip(kinds[US], kinds[BEFORE])]
        if pairs and all(now is not None and then for now, then in pairs):
            ratios[key] = median(now / then for now, then in pairs)
    return ratios


def report(loads, measured, failures):
    """The figures of each load, for printing and for JSON."""
    reports = []
    for load in loads:
        figures = medians(load, measured.get(load.name, {}))
        kinds = {server.name: server.kind for server in SERVERS[load.protocol]}
        bars = [(bar, bar.judge(figures, kinds)) for bar in load.bars]
        ratios = paired(load, measured.get(load.name, {}))
        reports.append((load, figures, ratios, bars, failures.get(load.name, {})))
    return reports


def as_json(reports):
    return [
        {
            "protocol": load.protocol,
            "load": load.name,
            "medians": figures,
            "before": ratios,
            "bars": [{"bar": str(bar), "value": j and j[0], "met": j and bool(j[1])} for bar, j in bars],
            "skipped": failed,
        }
        for load, figures, ratios, bars, failed in reports
    ]


def show(reports):
    for load, figures, ratios, bars, failed in reports:
        print(f"\n{load.protocol}: {load.name}")
        titles = [COLUMNS[key].title for key in load.columns]
        print(f"  {'':16}" + "".join(f"{title:>14}" for title in titles))
        rows = {**figures, "of before": ratios} if ratios else figures
        for server, values in rows.items():
            forms = {key: ".3f" if values is ratios else COLUMNS[key].form for key in load.columns}
            cells = [format(values[key], form) if key in values else "-" for key, form in forms.items()]
            print(f"  {server:16}" + "".join(f"{cell:>14}" for cell in cells))
        for server, why in failed.items():
            print(f"  {server:16}  skipped: {' '.join(why.split())}")
        for bar, judged in bars:
            verdict = "not comparable" if judged is None else f"{judged[0]:.3g}, {'met' if judged[1] else 'MISSED'}"
            print(f"  bar: {bar}: {verdict}")
