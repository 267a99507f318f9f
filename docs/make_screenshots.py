"""The pictures of docs/playground.md, from a real Chromium: a teacher and its student in `mcd play`.

mcd distill mcd --teacher demo --out runs/student
python docs/make_screenshots.py demo runs/student
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=2, help="a teacher and a student")
    words = [sys.executable, "-m", "mcd", "play", *parser.parse_args().models, "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            shoot(next(found[0] for line in process.stderr if (found := re.search(r"http://[\d.:]+/", line))))
        finally:
            process.terminate()


def shoot(address: str) -> None:
    """All pictures of the playground at an address."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        for picture in (side_by_side, fill_in, duality):
            picture(page)
        browser.close()


def side_by_side(page: Page) -> None:
    """The teacher in 32 steps and the student in 4, before they have ended."""
    page.set_viewport_size({"width": 1180, "height": 890})
    page.locator("#template textarea").fill("My fellow citizens, [MASK:48] peace with all nations.")
    page.locator("#steps0 input[type=number]").fill("32")
    page.locator("#steps1 input[type=number]").fill("4")
    page.get_by_role("button", name="Write").click()
    page.locator("#lane0 .facts").get_by_text(re.compile(r"2\d of 32")).wait_for()
    page.screenshot(path=IMAGES / "playground.png")
    page.locator("#lane0 .facts").get_by_text("32 of 32").wait_for()


def fill_in(page: Page) -> None:
    """Two words written anew, the best three rows of eight."""
    page.set_viewport_size({"width": 1180, "height": 940})
    page.get_by_role("tab", name="Fill in").click()
    for n, word in enumerate(("friendly,", "blessings")):
        page.locator("#words").get_by_text(word).click()
        page.locator("#words .highlighted").nth(n).wait_for()
    page.locator("#candidates input[type=number]").fill("8")
    page.locator("#fill").click()
    page.locator("#filled .canvas").first.wait_for()
    page.screenshot(path=IMAGES / "playground_infill.png")


def duality(page: Page) -> None:
    """A sentence at t = 0.6."""
    page.set_viewport_size({"width": 1180, "height": 770})
    page.get_by_role("tab", name="Duality").click()
    page.locator("#time input[type=range]").fill("0.6")
    page.locator("#duality").get_by_text("0.600").wait_for()
    page.screenshot(path=IMAGES / "playground_duality.png")


if __name__ == "__main__":
    main()
