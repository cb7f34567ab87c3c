"""Size of a page and what it takes to open it, cold: Chromium with a new profile for each try, the page from a file.

Ready is when the page says so itself (`data-ready`): what stands open within the first window is drawn and answers. Times are those
of the page's main thread (processor time, so that what else the machine does counts little) and of the clock, from the navigation.

    python benchmarks/page.py reports/demo.html
    python benchmarks/page.py reports/demo.html --profile 12     # also the functions that take the most
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from statistics import median
from typing import Any

PARTS = {"script": "ScriptDuration", "layout": "LayoutDuration", "style": "RecalcStyleDuration"}
SCRIPT = re.compile(rb"<script([^>]*)>(.*?)</script>", re.DOTALL)


def sizes(path: Path) -> dict[str, int]:
    """Bytes of the page and of its parts."""
    whole = path.read_bytes()
    found = {"page": len(whole)}
    for head, body in SCRIPT.findall(whole):
        named = re.search(rb'id="([\w-]+)"', head)
        key = named[1].decode() if named else "Vega" if len(body) > 500_000 else "own script"
        found[key] = found.get(key, 0) + len(body)
    found["text and style"] = found["page"] - sum(v for k, v in found.items() if k != "page")
    return found


def opened(driver: Any, path: Path, chromium: str, width: int, height: int, profile: bool) -> dict[str, Any]:
    """One cold opening: seconds of the clock and of the main thread until ready, and until all that is open is drawn."""
    browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    page = browser.new_context(viewport={"width": width, "height": height}, offline=True).new_page()
    page.set_default_timeout(240_000)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    if profile:
        session.send("Profiler.enable")
        session.send("Profiler.start")
    page.goto(path.resolve().as_uri(), wait_until="commit")
    page.wait_for_selector("html[data-ready='1']", state="attached")
    used = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    now = page.evaluate("performance.now() / 1000")  # of a page that sets no mark
    marks = page.evaluate(
        "Object.fromEntries(performance.getEntriesByType('mark').map(m => [m.name, m.startTime / 1000]))"
    )
    found = {"clock": marks.get("ready", now), "main thread": used["TaskDuration"], **{k: used[v] for k, v in PARTS.items()}, "nodes": used["Nodes"]}  # fmt: skip
    if profile:
        found["profile"] = session.send("Profiler.stop")["profile"]
    page.wait_for_selector("html[data-drawn='1']", state="attached")
    found["all drawn"] = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}["TaskDuration"]  # fmt: skip
    found["said"] = said
    found["marks"] = marks
    browser.close()
    return found


def costly(profile: dict[str, Any], most: int) -> list[str]:
    """The functions with the most time of their own."""
    own: dict[str, float] = {}
    names = {node["id"]: node["callFrame"] for node in profile["nodes"]}
    for node, spent in zip(profile["samples"], profile["timeDeltas"], strict=True):
        frame = names[node]
        key = f"{frame['functionName'] or '(anonymous)'} {frame['url'][-24:]}:{frame['lineNumber']}:{frame['columnNumber']}"
        own[key] = own.get(key, 0.0) + spent / 1e6
    return [f"{seconds:7.3f} s  {name}" for name, seconds in sorted(own.items(), key=lambda x: -x[1])[:most]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, nargs="+")
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--width", type=int, default=1300)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument(
        "--profile", type=int, default=0, metavar="N", help="show the N functions that take the most time"
    )
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    for path in given.page:
        print(f"{path}: " + ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in sizes(path).items()))
        with sync_playwright() as driver:
            tries = [opened(driver, path, given.chromium, given.width, given.height, bool(given.profile)) for _ in range(given.tries)]  # fmt: skip
        for name in ("clock", "main thread", *PARTS, "all drawn"):
            values = sorted(one[name] for one in tries)
            print(f"  {name:12s} {median(values):6.2f} s (of {len(values)}: {values[0]:.2f} to {values[-1]:.2f})")
        print(
            f"  nodes {tries[0]['nodes']:.0f}; marks {json.dumps({k: round(v, 2) for k, v in tries[0]['marks'].items()})}"
        )
        for text in tries[0]["said"]:
            print(f"  console: {text}")
        if given.profile:
            print("\n".join(costly(tries[-1]["profile"], given.profile)))


if __name__ == "__main__":
    main()
