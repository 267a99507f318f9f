"""The slider of time on the page, in a real Chromium."""

import shutil

import pytest

from mcd.report.runs import read_runs

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH; on Debian: apt-get install chromium")
def test_dragging_the_time_reveals_the_tokens_of_that_time(demo, page_of, tmp_path):
    (tmp_path / "page.html").write_text(page_of(demo).source, encoding="utf-8")
    (trajectory, *_) = [one for run in read_runs([demo]) for one in run.trajectories]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        drawn = page.locator("#trajectory .drawn").first
        assert drawn.locator(".unseen").count() == 0  # as without JavaScript
        for state in trajectory.states:
            t = trajectory.times[state["step"]]
            page.locator(".time input").fill(str(round(1000 * (1 - t))))
            assert drawn.locator(".unseen").count() == sum(token is None for token in state["tokens"])
        browser.close()
