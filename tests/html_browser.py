"""A real Chromium for pages: opened from disk, refused every network request. Name it in `pytest_plugins`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from html_support import DESKTOP, Open
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

from harness.reporting.html.page import RunPage, write

CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 30_000

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not os.access(CHROMIUM, os.X_OK):
        pytest.fail(f"{CHROMIUM} is missing; remedy: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def problems() -> list[str]:
    """What the pages asked of the network, threw, and complained of."""
    return []


@pytest.fixture
def opened(browser: Browser, tmp_path: Path, problems: list[str]) -> Iterator[Open]:
    """Opens a RunPage, or HTML text. Afterwards there must be no problem."""
    contexts: list[BrowserContext] = []

    def watch(request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            problems.append(f"asked for {request.url}")

    def open_it(content: RunPage | str, size: tuple[int, int] = DESKTOP, *, scheme: str = "light") -> Page:
        path = tmp_path / f"report-{len(contexts)}.html"
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            write(str(path), content)
        view = {"width": size[0], "height": size[1]}
        context = browser.new_context(viewport=view, color_scheme=scheme, offline=True)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", watch)
        page.on("pageerror", lambda error: problems.append(f"threw {error}"))
        page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not problems
