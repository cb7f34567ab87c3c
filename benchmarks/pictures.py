"""The pictures of the README, of a page as it is now: the first screen (docs/report.png) and the player (docs/player.png).

python benchmarks/pictures.py reports/demo.html
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
WIDTH, HEIGHT = 1300, 1000
WIDE = 1540
"""Of the window in which the player is drawn: its charts stand three in a row."""
COLOURS = 192
"""Of the palette that a picture is reduced to: half of the bytes, no difference to be seen on drawings."""


def written(picture: bytes, path: Path) -> None:
    """A PNG with few colours."""
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.set_default_timeout(240_000)
        page.goto(given.page.resolve().as_uri())
        page.wait_for_selector("html[data-drawn='1']", state="attached")
        written(page.screenshot(), given.out / "report.png")
        player = page.locator("#fig-player .circuit")
        if player.count():
            page.set_viewport_size({"width": WIDE, "height": HEIGHT})
            page.wait_for_timeout(500)  # the player draws itself again
            player.scroll_into_view_if_needed()
            page.wait_for_selector("#fig-player .circuit[data-shown], #fig-player[data-shown]", state="attached")
            page.locator("fieldset.legend").evaluate("e => { e.style.position = 'static'; }")
            written(player.screenshot(), given.out / "player.png")
        browser.close()


if __name__ == "__main__":
    main()
