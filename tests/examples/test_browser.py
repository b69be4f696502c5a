"""The pages of the example services in a real browser: Debian's chromium, headless, driven by selenium."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from aioencrypt import decrypt
from tests.support.examples import KEY, load, names, served
from tests.support.http_services import uvicorn_serves
from tests.support.streaming import plaintext_of

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: nox -s browser")
from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed: nox -s browser"
    ),
]

FILE = plaintext_of(5_000_000)
SECONDS = 60
# The last ones keep it from calling out.
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=900,800",
]

upload_service = load("upload_service")
starlette_service = load("starlette_service")


@asynccontextmanager
async def aiohttp_serves(folder: Path) -> AsyncIterator[str]:
    async with served(upload_service.make_app(KEY, folder)) as url:
        yield url.removesuffix("files")


def starlette_serves(folder: Path) -> AbstractAsyncContextManager[str]:
    return uvicorn_serves(starlette_service.make_app(KEY, folder))


Serves = Callable[[Path], AbstractAsyncContextManager[str]]
SERVICES = {"aiohttp": aiohttp_serves, "starlette": starlette_serves}


@contextmanager
def in_thread(serves: Serves, folder: Path) -> Iterator[str]:
    """Serve from an event loop in a thread; gives the URL."""
    ready = threading.Event()
    url: list[str] = []
    stop: list[Callable[[], object]] = []

    async def main() -> None:
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(done.set))
        try:
            async with serves(folder) as found:
                url.append(found)
                ready.set()
                await done.wait()
        finally:
            ready.set()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait()
    try:
        yield url[0]
    finally:
        stop[0]()
        thread.join()


@pytest.fixture(params=SERVICES, ids=str)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "stored"
    folder.mkdir()
    with in_thread(SERVICES[request.param], folder) as url:
        yield url, folder


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in [*ARGUMENTS, f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    except WebDriverException as error:
        pytest.skip(f"chromium does not start here: {error.msg}")
    try:
        yield driver
    finally:
        driver.quit()


def until(browser: Any, condition: Callable[[Any], Any]) -> Any:
    return WebDriverWait(browser, SECONDS, poll_frequency=0.05).until(condition)


def status_of(browser: Any) -> str:
    return str(browser.find_element(By.ID, "status").text)


def look(browser: Any, name: str) -> None:
    """Keep a picture of the page for whoever wants to look at it."""
    if folder := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def test_a_file_goes_up_and_comes_back(
    service: tuple[str, Path], browser: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url, folder = service
    file = tmp_path / "Quarterly report (final) ü.bin"
    file.write_bytes(FILE)
    browser.get(url)
    look(browser, f"{request.node.callspec.id}-before")
    progress = browser.find_element(By.ID, "progress")
    assert progress.get_property("value") == 0
    browser.execute_script(
        "window.seen = []; new MutationObserver(() => seen.push(document.getElementById('progress').value))"
        ".observe(document.getElementById('progress'), {attributes: true})"
    )

    browser.find_element(By.ID, "file").send_keys(str(file))
    browser.find_element(By.ID, "send").send_keys(Keys.ENTER)
    until(browser, lambda _: "stored" in status_of(browser))

    assert status_of(browser) == f"{file.name} is stored, encrypted."
    assert progress.get_property("value") == progress.get_property("max") == 100
    seen = browser.execute_script("return seen")
    assert seen == sorted(seen)
    assert seen[-1] == 100
    [stored] = names(folder)
    assert stored == "Quarterly-report-final-.bin"
    message = (folder / stored).read_bytes()
    assert FILE[:100] not in message
    decrypted = asyncio.run(decrypt(message, KEY, encryption_context={"name": stored}))
    assert decrypted.plaintext == FILE

    link = browser.find_element(By.LINK_TEXT, file.name)
    look(browser, f"{request.node.callspec.id}-after")
    link.send_keys(Keys.ENTER)
    downloads = tmp_path / "downloads"
    until(browser, lambda _: downloads.is_dir() and names(downloads) == [file.name])
    assert (downloads / file.name).read_bytes() == FILE
    assert browser.get_log("browser") == []


def test_a_file_that_is_too_large_is_told(
    service: tuple[str, Path],
    browser: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    url, folder = service
    for module in (upload_service, starlette_service):
        monkeypatch.setattr(module, "MAX_LENGTH", 1000)
    file = tmp_path / "large"
    file.write_bytes(bytes(1001))
    browser.get(url)
    browser.find_element(By.ID, "file").send_keys(str(file))
    browser.find_element(By.ID, "send").click()
    until(browser, lambda _: "Nothing was stored" in status_of(browser))
    look(browser, f"{request.node.callspec.id}-refused")
    assert status_of(browser) == "The file is too large. Nothing was stored."
    assert browser.find_element(By.ID, "progress").get_property("value") == 0
    assert names(folder) == []
    assert browser.find_element(By.ID, "send").is_enabled()


def test_a_service_that_is_gone_is_told(browser: Any, tmp_path: Path) -> None:
    with in_thread(aiohttp_serves, tmp_path) as url:
        browser.get(url)
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    browser.find_element(By.ID, "file").send_keys(str(file))
    browser.find_element(By.ID, "send").click()
    until(browser, lambda _: "broke" in status_of(browser))
    assert status_of(browser) == "The connection broke. Nothing was stored."


def test_the_page_is_usable_with_a_keyboard_and_names_its_parts(
    service: tuple[str, Path], browser: Any
) -> None:
    url, _ = service
    browser.get(url)
    reached = []
    for _ in range(2):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(browser.switch_to.active_element.get_attribute("id"))
    assert reached == ["file", "send"]
    names_of_parts = {
        part: browser.find_element(By.ID, part).accessible_name for part in ("file", "send", "progress")
    }
    assert names_of_parts == {"file": "File", "send": "Encrypt and store", "progress": "Sent"}
    status = browser.find_element(By.ID, "status")
    assert status.aria_role == "status"
    assert status.get_attribute("aria-live") == "polite"
    # Without a file the form is not sent.
    browser.find_element(By.ID, "send").click()
    assert status.text == "No file sent yet."
