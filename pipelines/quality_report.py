"""The page that says what was wrong with a batch: one table per input, the failed checks first."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

from pipelines.expectations import Check, Verdict

ORDER: tuple[Verdict, ...] = ("failed", "held", "accepted", "quarantined", "noted", "passed")
MEANING: dict[Verdict, str] = {
    "failed": "stops the batch",
    "held": "this day is kept back, the others go on",
    "accepted": "a person vouches for this day",
    "quarantined": "rows put aside, the rest goes on",
    "noted": "rows kept, only counted",
    "passed": "as expected",
}
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#1b1f24}
h1{font-size:1.5rem}h2{margin-top:2rem;font-size:1.15rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.35rem .7rem;
border-bottom:1px solid #d8dee4}th{background:#f6f8fa}td.v{white-space:nowrap;font-weight:600}
.failed td.v{color:#b3261e}.failed{background:#fdecea}.quarantined td.v{color:#8a5a00}.noted td.v{color:#3b5b8c}
.held td.v,.accepted td.v{color:#8a5a00}
.passed td.v{color:#1a7f37}code{background:#eff1f3;padding:0 .25rem;border-radius:3px;overflow-wrap:anywhere}
.stop{border-left:5px solid #b3261e;padding:.2rem 1rem;background:#fdecea}
.notice{border-left:5px solid #8a5a00;padding:.2rem 1rem}
.go{border-left:5px solid #1a7f37;padding:.2rem 1rem;background:#e9f7ee}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}th,code{background:#21262d}
th,td{border-color:#30363d}.failed,.stop{background:#3b1513}.go{background:#0f2e1a}.failed td.v{color:#ff8a80}
.passed td.v{color:#56d364}.quarantined td.v{color:#e3b341}.noted td.v{color:#8ab4f8}}
"""


def page(title: str, facts: Mapping[str, object], checks: Sequence[Check]) -> str:
    """A self-contained HTML page: the verdict, the facts of the run, and each check under its table."""
    failed = [check for check in checks if check.verdict == "failed"]
    tables = groupby(sorted(checks, key=lambda c: (c.table, ORDER.index(c.verdict))), key=lambda c: c.table)
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>',
            f"<style>{STYLE}</style><h1>{escape(title)}</h1>",
            _verdict(failed),
            *(_notice(check) for check in checks if check.verdict in ("held", "accepted")),
            "<table>" + "".join(_fact(name, value) for name, value in facts.items()) + "</table>",
            *(_table(name, list(rows)) for name, rows in tables),
            "<h2>Words</h2><ul>",
            *(f"<li><b>{verdict}</b>: {MEANING[verdict]}</li>" for verdict in ORDER),
            "</ul></html>",
        ]
    )


def _verdict(failed: Sequence[Check]) -> str:
    if not failed:
        return '<div class="go"><p><b>The batch is good</b> and was published.</p></div>'
    lines = "".join(
        f"<li><b>{escape(c.table)} · {escape(c.name)}</b>: {escape(c.says)}. "
        f"Observed {escape(c.observed)}; allowed {escape(c.expected)}.</li>"
        for c in failed
    )
    return f'<div class="stop"><p><b>The batch was stopped; nothing was published.</b></p><ul>{lines}</ul></div>'


def _notice(check: Check) -> str:
    text = f"<b>{check.verdict}</b>: {escape(check.says)}. Observed {escape(check.observed)}"
    return f'<div class="notice"><p>{text}; allowed {escape(check.expected)}.</p></div>'


def _fact(name: str, value: object) -> str:
    return f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"


def _table(name: str, checks: Sequence[Check]) -> str:
    head = "<tr><th>verdict</th><th>check</th><th>expected</th><th>observed</th><th>bad values</th></tr>"
    return f"<h2>{escape(name)}</h2><table>{head}{''.join(_row(check) for check in checks)}</table>"


def _row(check: Check) -> str:
    samples = " ".join(f"<code>{escape(value)}</code>" for value in check.examples)
    return (
        f'<tr class="{check.verdict}"><td class="v">{check.verdict}</td>'
        f"<td><b>{escape(check.name)}</b><br>{escape(check.says)}</td>"
        f"<td>{escape(check.expected)}</td><td>{escape(check.observed)}</td><td>{samples}</td></tr>"
    )
