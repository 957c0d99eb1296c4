"""A profile as a page for browsers: one file with its style and script inside, which loads nothing from elsewhere.

Owns how the page looks. It must not know how anything is measured. Text of a model is never read as markup.
"""

from __future__ import annotations

from html import escape
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlc.runtime.profile import Profile, StepTime

# The policy refuses whatever is not in the file itself, should a name ever slip through unescaped.
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Profile of $model</title>
<style>
:root { color-scheme: light dark; --text: #1c2024; --dim: #60646c; --page: #ffffff; --line: #d9d9e0;
  --time: #b3cdf5; --floor: #2f6fd6; --row: #f3f5f9; }
@media (prefers-color-scheme: dark) { :root { --text: #edeef0; --dim: #a6aab2; --page: #14161a; --line: #363a42;
  --time: #2b4570; --floor: #6ea8ff; --row: #1d2026; } }
body { margin: 2rem auto; max-width: 88rem; padding: 0 1rem; color: var(--text); background: var(--page);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin-bottom: .5rem; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 1rem 0; }
dt { color: var(--dim); font-size: .85rem; }
dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
p { max-width: 60rem; }
.key { display: inline-block; width: 1.6rem; height: .7rem; border-radius: 2px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th:nth-last-child(-n+2), td:nth-last-child(-n+2) { text-align: left; }
td:last-child { white-space: normal; overflow-wrap: anywhere; min-width: 16rem; }
tbody tr:hover { background: var(--row); }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--floor); }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
.bar { position: relative; width: 12rem; height: .9rem; margin-top: .25rem; }
.bar i { position: absolute; left: 0; top: 0; height: 100%; border-radius: 2px; background: var(--time); }
.bar i + i { top: 25%; height: 50%; background: var(--floor); }
.symbol { color: var(--dim); font: .8rem ui-monospace, monospace; }
</style>
</head>
<body>
<h1>Profile of $model</h1>
<dl>$facts</dl>
<p>Each row is one compiled kernel: a step of the model, named by its operation and by the nodes of the model that it
came from; several nodes may be fused into one kernel. Times are medians of $runs runs, with all calls that a run makes
of the step. Select a heading to sort.</p>
<p><span class="key" style="background: var(--time)"></span> time that the step takes $floor_key</p>
$notes
<div class="scroll">
<table>
<thead><tr>$headings</tr></thead>
<tbody>
$rows
</tbody>
</table>
</div>
<script>
const body = document.querySelector("tbody"), headings = [...document.querySelectorAll("th")];
for (const heading of headings) {
  const column = headings.indexOf(heading);
  heading.querySelector("button").addEventListener("click", () => {
    const text = heading.dataset.kind === "text";
    const before = heading.getAttribute("aria-sort");
    const up = before ? before === "descending" : text || column === 0;
    const key = row => row.cells[column].dataset.value;
    const order = text ? (a, b) => key(a).localeCompare(key(b)) : (a, b) => key(a) - key(b);
    const rows = [...body.rows].sort((a, b) => up ? order(a, b) : order(b, a));
    headings.forEach(other => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...rows);
  });
}
</script>
</body>
</html>
""")

_COLUMNS = (
    ("#", "Position in the order of the run"),
    ("ms", "Milliseconds per run"),
    ("%", "Share of the run"),
    ("% of floor", "How near the step comes to the least time that its work can take"),
    ("bound by", "What decides the floor"),
    ("GFLOP/s", "Operations of matrix products and convolutions per second, a multiply-add being two"),
    ("GB/s", "Bytes read and written per second, each operand counted once"),
    ("calls", "Calls in a run"),
    ("tasks", "Independent pieces that threads share"),
    ("time", "Time, and the floor in it"),
    ("step", "Operation, nodes of the model, name of the kernel"),
)
_TEXT_COLUMNS = ("bound by", "step")
_SORTED_BY = "ms"


def report_page(profile: Profile, model: str) -> str:
    """Return the page of ``profile`` as HTML, slowest step first."""
    roof = profile.roofline
    facts = {
        "model": model,
        "time in kernels": f"{profile.milliseconds:.3f} ms",
        "kernels": str(len(profile.steps)),
        "threads": str(profile.threads),
    }
    floor_key = ""
    if roof is not None:
        facts["floor of all kernels"] = f"{profile.floor:.3f} ms ({profile.percent_of_floor:.0f} % of floor)"
        facts["machine"] = roof.processor
        facts["peak, float32"] = f"{roof.peak_flops / 1e9:.0f} GFLOP/s"
        facts["bandwidth"] = ", ".join(
            f"{rate / 1e9:.0f} GB/s of {_size(size)}" for size, rate in (roof.bandwidth[0], roof.bandwidth[-1])
        )
        floor_key = '<span class="key" style="background: var(--floor)"></span> its floor'
    longest = max((step.milliseconds for step in profile.steps), default=1.0)
    return _PAGE.substitute(
        model=escape(model),
        facts="".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items()),
        runs=profile.runs,
        floor_key=floor_key,
        notes="\n".join(f"<p>{escape(note)}</p>" for note in profile.notes),
        headings="".join(_heading(name, title) for name, title in _COLUMNS),
        rows="\n".join(_row(step, longest) for step in profile.slowest(len(profile.steps))),
    )


def _heading(name: str, title: str) -> str:
    kind = "text" if name in _TEXT_COLUMNS else "number"
    order = ' aria-sort="descending"' if name == _SORTED_BY else ""
    return f'<th scope="col" data-kind="{kind}" title="{escape(title)}"{order}><button>{escape(name)}</button></th>'


def _row(step: StepTime, longest: float) -> str:
    name = step.label or step.symbol
    wide, floor = (100 * min(ms / longest, 1.0) for ms in (step.milliseconds, step.floor))
    bar = f'<div class="bar"><i style="width: {wide:.1f}%"></i><i style="width: {floor:.1f}%"></i></div>'
    note = f' title="{escape(step.note)}"' if step.note else ""
    cells = (
        (step.step, str(step.step), ""),
        (step.milliseconds, f"{step.milliseconds:.4f}", ""),
        (step.percent, f"{step.percent:.1f}", ""),
        (step.percent_of_floor, step.floor_text, note),
        (step.bound, step.bound or "-", ""),
        (step.gflops, f"{step.gflops:.1f}", ""),
        (step.gigabytes, f"{step.gigabytes:.1f}", ""),
        (step.calls, str(step.calls), ""),
        (step.tasks, str(step.tasks), ""),
        (step.milliseconds, bar, ""),
        (name, f'{escape(name)}<br><span class="symbol">{escape(step.symbol)}</span>', ""),
    )
    return "<tr>" + "".join(f'<td data-value="{escape(str(v))}"{a}>{text}</td>' for v, text, a in cells) + "</tr>"


def _size(nbytes: int) -> str:
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"
