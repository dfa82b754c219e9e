"""The report of a bench as Markdown, with the wanted figures beside the reached ones."""

from onestep.bench import FIRST, LARGE, PHOTO, SMALL, Case, Measurement, Report

SWEEP = "onestep, five values of realism"
PLAIN = "same network, plain eager float32"


def markdown(report: Report) -> str:
    """The whole report."""
    machine = report.machine
    head = [
        f"# Speed and memory of `{report.model}`",
        "",
        f"{machine['processor']}, {machine['threads']} threads; torch {machine['torch']}, Python "
        f"{machine['python']}, onestep {report.version}; {machine['date']}. Runs of a table took turns; the "
        "fastest of each counts. Ratios travel to other machines, seconds do not.",
        "",
    ]
    cases = [case for case in (SMALL, PHOTO, LARGE) if report.find(case)]
    parts = [
        *head,
        *(line for case in cases for line in _table(report, case)),
        *_floor(report),
        *_verdicts(report),
    ]
    for runner, reason in sorted(report.absent.items()):
        parts.append(f"Not measured: {runner} ({reason}).")
    return "\n".join(parts).rstrip() + "\n"


def _table(report: Report, case: Case) -> list[str]:
    rows = [m for m in report.measurements if m.case == case.name]
    return [
        f"## {case.name}",
        "",
        "| what | s per output Mpx | ratio | CPU s per Mpx | peak memory MB | beyond pixels MB | runs |",
        "|---|---|---|---|---|---|---|",
        *(_row(m) for m in rows),
        "",
    ]


def _row(m: Measurement) -> str:
    ratio = "" if m.ratio is None else f"{m.ratio:.2f}"
    memory = f"{_mb(m.peak)} | {_mb(m.beyond_pixels)}"
    times = f"{m.seconds_per_mpx:.3g} | {ratio} | {m.cpu_seconds_per_mpx:.3g}"
    return f"| {m.runner} | {times} | {memory} | {m.runs} |"


def _mb(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e6:.0f}"


def _floor(report: Report) -> list[str]:
    floor = report.floor
    lines = [
        "## The floor",
        "",
        f"{floor['parameters']:,} parameters, {floor['multiply_adds_per_lr_pixel'] / 1e6:.3f} million "
        f"multiply-adds per LR pixel, {floor['gflop_per_output_mpx']:.0f} GFLOP per output megapixel "
        "(counted by torch).",
        "",
        "| precision | network GFLOP/s | matrix product | convolution | network / matrix | floor s/Mpx |",
        "|---|---|---|---|---|---|",
    ]
    for name, rate in floor["rates"].items():
        share = rate["network"] / rate["gemm"]
        seconds = floor["floor_seconds_per_mpx"][name]
        lines.append(
            f"| {name} | {rate['network']:.0f} | {rate['gemm']:.0f} | {rate['conv']:.0f} | {share:.2f} "
            f"| {seconds:.3f} |"
        )
    return [*lines, ""]


def _verdicts(report: Report) -> list[str]:
    """What was wanted of the shipped model, and what was reached."""
    rows: list[tuple[str, str, str]] = []
    rates = report.floor["rates"].values()
    best = max((rate["network"] / rate["gemm"] for rate in rates), default=0.0)
    rows.append(("network at half of the matrix rate or more", ">= 0.50", f"{best:.2f}"))
    for case in (SMALL, PHOTO):
        if (plain := report.find(case, PLAIN)) and plain.ratio:
            rows.append((f"faster than plain eager float32, {case.name}", "> 1", f"{plain.ratio:.2f}"))
        if (sweep := report.find(case, SWEEP)) and sweep.ratio:
            rows.append((f"five values of realism, {case.name}", "<= 2.5", f"{sweep.ratio:.2f}"))
    photo, large = report.find(PHOTO), report.find(LARGE)
    if photo and photo.beyond_pixels is not None:
        rows.append(("memory beyond pixels, photo", "< 1000 MB", f"{_mb(photo.beyond_pixels)} MB"))
        if large and large.beyond_pixels is not None:
            growth = large.beyond_pixels / photo.beyond_pixels
            rows.append(("the same for four times the area", "0.90 to 1.10", f"{growth:.2f}"))
    table = [f"| {name} | {wanted} | {reached} |" for name, wanted, reached in rows]
    return ["## Wanted and reached", "", f"| {FIRST} | wanted | reached |", "|---|---|---|", *table, ""]
