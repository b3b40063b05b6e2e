"""Make pictures/*.png from a finished quickstart's report: sections of the page as a browser draws them.

    stillhouse run examples/quickstart/stillhouse.yaml
    python examples/quickstart/take_screenshots.py runs/quickstart

It needs a Chromium (Debian: chromium-headless-shell) and `pip install -e '.[browser]'`.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).resolve().parent
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH = 1180
COLOURS = 64
MARGIN = 12

Picture = Image.Image


def main() -> None:
    """Four pictures: verdicts, how near and how sure, a text token by token, who worked when."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run of this example")
    parser.add_argument("--out", type=Path, default=HERE / "pictures")
    options = parser.parse_args()
    report = options.run / "report.html"
    if not report.exists():
        parser.error(f"{report} is not there; `stillhouse report {options.run}` makes it")
    options.out.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(parser))
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, offline=True)
        page.goto(report.resolve().as_uri())
        page.add_style_tag(content=".pictures { display: block; }")  # pictures as large as they are drawn
        pictures = {
            "verdicts": verdicts(page),
            "near_and_sure": beside(
                shot(page, "#domains table"), shot(page, "figure:has(h4:text-matches('^Is code')) svg")
            ),
            "timeline": cropped(shot(page, "figure:has(h4:text-is('Who worked when')) svg")),
            "token": token(page, " halvorin"),
        }
        browser.close()
    for name, picture in pictures.items():
        path = options.out / f"{name}.png"
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size:,} bytes")


def chromium(parser: argparse.ArgumentParser) -> str:
    """The first of the known browsers that is installed."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        parser.error("no Chromium is installed; Debian's package chromium-headless-shell is enough")
    return found


def verdicts(page: Page) -> Picture:
    """The page's head and its cards, down to what would change them."""
    end = max(box["y"] + box["height"] for card in page.locator(".card").all() if (box := last_item(card)))
    return picture_of(page.screenshot(clip={"x": 0, "y": 0, "width": WIDTH, "height": end + MARGIN}, full_page=True))


def last_item(card: Any) -> Any:
    """Where a card's list of changes ends."""
    return card.locator("ul").first.bounding_box()


def token(page: Page, text: str) -> Picture:
    """The first texts, with the runners-up at a token that reads so."""
    page.set_viewport_size({"width": WIDTH, "height": 440})
    mark = page.locator(".t", has_text=text).first
    page.locator(".text", has=mark).first.evaluate("element => element.scrollIntoView()")
    mark.hover()
    return picture_of(page.screenshot())


def shot(page: Page, selector: str) -> Picture:
    """One element."""
    return picture_of(page.locator(selector).first.screenshot())


def picture_of(data: bytes) -> Picture:
    """A picture from its bytes."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def beside(left: Picture, right: Picture) -> Picture:
    """Two pictures as one."""
    left, right = cropped(left), cropped(right)
    made = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), "white")
    made.paste(left, (0, 0))
    made.paste(right, (left.width, 0))
    return made


def cropped(picture: Picture) -> Picture:
    """With an even margin."""
    inner = picture.crop(Image.eval(picture, lambda value: 255 - value).getbbox())
    made = Image.new("RGB", (inner.width + 2 * MARGIN, inner.height + 2 * MARGIN), "white")
    made.paste(inner, (MARGIN, MARGIN))
    return made


if __name__ == "__main__":
    main()
