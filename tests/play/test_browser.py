"""`mcd play` in a real Chromium, as somebody uses it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

from mcd.api.model import load  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH; on Debian: apt-get install chromium"),
]
TEMPLATE = "My fellow citizens, [MASK:6] peace."


@pytest.fixture(scope="module")
def address(ours, tmp_path_factory) -> Iterator[str]:
    """Where a playground of the bundled teacher and a small model listens."""
    said = tmp_path_factory.mktemp("play") / "stderr"
    words = [sys.executable, "-m", "mcd", "play", "demo", str(ours), "--port", "0", "--threads", "1"]
    with said.open("w", encoding="utf-8") as stderr:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(words, stderr=stderr, cwd=ROOT, env=environment)
    found = None
    while found is None and process.poll() is None:
        time.sleep(0.1)
        found = re.search(r"http://127\.0\.0\.1:\d+/", said.read_text(encoding="utf-8"))
    assert found, said.read_text(encoding="utf-8")
    yield found[0]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert "Traceback" not in said.read_text(encoding="utf-8")


@pytest.fixture
def page(address) -> Iterator["playwright.Page"]:
    """The playground in a browser, which must ask no other host and report no error."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        asked, faults = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)
        page.get_by_role("button", name="Write").wait_for()
        yield page
        assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
        assert faults == []
        browser.close()


def test_side_by_side_the_canvases_fill_and_the_seed_is_locked(page):
    page.locator("#template textarea").fill(TEMPLATE)
    for n, steps in enumerate((2, 6)):
        page.locator(f"#steps{n} input[type=number]").fill(str(steps))
    page.locator("#model1 input").click()
    page.get_by_role("option", name="demo", exact=True).click()
    page.get_by_role("button", name="Write").click()
    demo = load("demo", device="cpu")
    for n, steps in enumerate((2, 6)):
        lane = page.locator(f"#lane{n}")
        lane.get_by_text(f"{steps} of {steps}").wait_for()
        expected = demo.infill(TEMPLATE, steps=steps, seed=0)
        assert lane.locator(".canvas").inner_text() == expected.texts[0]
        assert f"network calls {expected.nfe[0]}" in lane.locator(".facts").inner_text()
        assert "seconds" in lane.locator(".facts").inner_text()
        assert lane.locator(".canvas .tok").count() == 6


def test_what_a_sampler_refuses_is_shown(page):
    page.locator("#order input").click()
    page.get_by_role("option", name="blockwise").click()
    page.locator("#sampler input").click()
    page.get_by_role("option", name="confidence").click()
    page.get_by_role("button", name="Write").click()
    page.locator("#lane0 .refused").wait_for()
    assert "--order: is no option of --sampler confidence" in page.locator("#lane0").inner_text()


def test_words_are_written_anew_and_the_others_stay(page):
    page.get_by_role("tab", name="Fill in").click()
    page.locator("#text textarea").fill("We remain at peace with all nations.")
    page.locator("#words").get_by_text("nations.").wait_for()
    for n, word in enumerate(("remain", "all")):
        page.locator("#words").get_by_text(word).click()
        page.locator("#words .highlighted").nth(n).wait_for()
    page.locator("#fill").click()
    page.locator("#filled .canvas").first.wait_for()
    texts = page.locator("#filled .canvas").all_inner_texts()
    assert len(texts) == 3
    for text in texts:
        assert text.startswith("We") and " at peace with" in text and text.endswith(" nations.")


def test_the_masks_follow_the_slider_and_both_projections_agree(page):
    page.get_by_role("tab", name="Duality").click()
    page.locator("#duality svg").wait_for()
    hidden = {}
    for t in ("0.2", "0.9"):
        page.locator("#time input[type=range]").fill(t)
        page.locator("#duality").get_by_text(f"{float(t):.3f}").wait_for()
        hidden[t] = page.locator("#duality rect.hidden").count()
        visible, agree = re.findall(r"(\d+) of 17", page.locator("#duality .facts").inner_text())
        assert agree == "17" and hidden[t] == 2 * (17 - int(visible))
    assert hidden["0.2"] < hidden["0.9"]
    page.locator("#root input[type=range]").fill("10")
    page.locator("#duality").get_by_text("17 of 17").nth(1).wait_for()
    assert (
        page.locator("#duality rect.hidden").count() == 0
        and page.locator("#time input[type=range]").input_value() < "0.1"
    )
