"""The status page as text: what an operator asks first, in that order. Plain HTML, no script, nothing from outside."""

import math
from html import escape
from time import gmtime, strftime

from .status import Status, health

STYLE = """
:root { color-scheme: light dark }
body { font: 1.1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
h1 { font-size: 1.3rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.verdict { font-size: 1.6rem; padding: .6rem 1rem; border-left: .6rem solid }
.pinned { font-weight: bold }
.good { border-color: #0072b2 } .bad { border-color: #d55e00 }
table { border-collapse: collapse } th, td { padding: .2rem .9rem .2rem 0; text-align: right; vertical-align: top }
th:first-child, td:first-child { text-align: left }
img { max-width: 100%; image-rendering: pixelated; border: 1px solid #888 }
"""

POLICY = "default-src 'self'; connect-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'"


def page(status: Status, now: float, stall_s: float) -> str:
    """The whole page. now: s, Unix."""
    reason = health(status, now, stall_s)
    exposure = status.exposure
    shown = "none yet"
    if exposure is not None:
        held = "each pixel by itself" if exposure.gain_stage is None else f"stage {exposure.gain_stage}"
        shown = f"{exposure.illumination.value}, gain: {held}, said by: {status.labelled_by}"
    alarms = "".join(f"<li>{escape(a)}</li>" for a in status.alarms)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<title>{escape(status.detector)} - rmm-stream</title><link rel="stylesheet" href="page.css"></head><body>
<h1>{escape(status.detector)}, {escape(status.shard)}</h1>
<p class="verdict {"bad" if reason else "good"}">{"Not healthy: " + escape(reason) if reason else "Alive"}</p>
<p>Up {_ago(now, status.started_at)}. Exposure: {escape(shown)}.
Generation {status.generation}, update {status.sequence}{_version(status)}.</p>
{_pinned(status)}{"<h2>Alarms</h2><ul>" + alarms + "</ul>" if alarms else ""}
<h2>Frames</h2>
<table><tr><th>module</th><th>processed</th><th>accepted</th><th>missed</th><th>rejected</th><th>last</th></tr>
{"".join(_frames_row(status, module, now) for module in status.modules)}</table>
<h2>Masks</h2>
<table><tr><th>module</th><th>maps judged</th><th>held</th><th>suspected</th><th>last update turned</th><th>published</th></tr>
{"".join(_mask_row(m, now) for m in status.modules.values())}</table>
{"".join(_picture(module) for module in status.overlay)}
<p><a href="metrics">metrics</a> <a href="healthz">health</a> <a href="api/status">status</a></p>
</body></html>
"""


def _version(status: Status) -> str:
    version = max((m.version for m in status.modules.values()), default=0)
    return f", version {version}" if version else ""


def _pinned(status: Status) -> str:
    if not status.pinned:
        return ""
    return (
        f'<p class="pinned">Pinned to version {status.pinned} by a rollback: fits go on, and change nothing until '
        "<code>rmm-stream history STORE release</code>.</p>\n"
    )


def _ago(now: float, then: float) -> str:
    if not then:
        return "never"
    seconds = max(0, math.floor(now - then))
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"


def _frames_row(status: Status, module: int, now: float) -> str:
    m = status.modules[module]
    missed = sum(s.missed.get(module, 0) for s in status.sources)
    refused = dict(m.rejected)
    for s in status.sources:
        for (of, reason), n in s.rejected.items():
            if of == module:
                refused[reason] = refused.get(reason, 0) + n
    said = ", ".join(f"{reason} {n}" for reason, n in sorted(refused.items())) or "0"
    return (
        f"<tr><td>{module}</td><td>{m.frames}</td><td>{m.accepted}</td><td>{missed}</td><td>{escape(said)}</td>"
        f"<td>{_ago(now, m.fed_at)}</td></tr>"
    )


def _mask_row(m, now: float) -> str:
    at = "never"
    if m.published_at:
        at = f"{strftime('%H:%M:%S UTC', gmtime(m.published_at))}, {_ago(now, m.published_at)} ago"
    return (
        f"<tr><td>{m.module}</td><td>{m.judged} of {m.maps}</td><td>{m.held}</td><td>{m.suspected} pixels</td>"
        f"<td>{m.changed} pixels</td><td>{at}</td></tr>"
    )


def _picture(module: int) -> str:
    return f'<h2>Module {module}</h2><img src="api/mask/{module}.png" alt="mask of module {module}, collapsed">'
