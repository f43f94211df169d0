"""How large the HTML report of 10,000 writes is, and how soon it answers. `python tests/benchmarks/bench_html.py [N]`

Prints figures; decides nothing. Interactive means: from the start of the navigation on file:// in headless Chromium to
the attribute data-ready, which the page sets once its first chart was painted and its filter can be typed into.
"""

import os
import statistics
import sys
import tempfile
import time

from playwright.sync_api import Browser, sync_playwright

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import html_support as support

from harness.reporting.html.page import RunPage, render, write

CHROMIUM = "/usr/bin/chromium"
ROUNDS = 5


def ready_ms(browser: Browser, url: str) -> float:
    """Of one visit, in a context of its own, so that nothing is cached."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}, offline=True).new_page()
    page.goto(url)
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    told = float(page.evaluate("document.documentElement.dataset.ready"))
    page.context.close()
    return told


def measure(name: str, content: RunPage, folder: str) -> None:
    """One line: size, time to render, and the median of the visits."""
    started = time.monotonic()
    render(content)
    seconds = time.monotonic() - started
    path = os.path.join(folder, "report.html")
    write(path, content)
    mib = os.path.getsize(path) / (1 << 20)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        visits = [ready_ms(browser, f"file://{path}") for _ in range(ROUNDS)]
        browser.close()
    shown = ", ".join(f"{visit:,.0f}" for visit in visits)
    median = statistics.median(visits)
    print(f"{name:<20} {mib:.2f} MiB (wanted: under 3), rendered in {seconds:.1f} s")
    print(f"{'':<20} interactive in {median:,.0f} ms (wanted: under 1,000), the median of {shown}")


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        # The first rendering also imports the chart library.
        measure("replace by rename", support.page(support.replace_by_rename()), folder)
        measure(f"{number:,} writes", support.page(support.many_writes(number)), folder)


if __name__ == "__main__":
    main()
