"""Reports in headless Chromium: nothing complains, every picture is drawn, all is readable on a phone and a desk."""

import shutil

import pytest

from monai_blurvae.report import write_report
from tests.report.runs import DATALIST, evaluate, make_run, write

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytestmark = pytest.mark.machine

WIDTHS = (400, 1400)
SMALLEST_TEXT = 12
"""CSS pixels."""
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)

IMAGES = "return [...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.alt)"
DRAWINGS = """
return [...document.querySelectorAll('svg')].filter(s => {
  const box = s.getBoundingClientRect();
  return !(box.width > 300 && box.height > 150);
}).map(s => s.getAttribute('aria-label'))
"""
OVERFLOW = "return document.scrollingElement.scrollWidth - window.innerWidth"
OUTSIDE = """
const boxes = '.scroll, nav, pre';  // what scrolls by itself
return [...document.body.querySelectorAll('*')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.right > window.innerWidth + 1 && !e.closest(boxes) && !e.ownerSVGElement;
}).map(e => e.outerHTML.slice(0, 80))
"""
TEXT = """
const small = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const parent = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || parent.closest('style, defs')) continue;
  let size = parseFloat(getComputedStyle(parent).fontSize);
  if (parent.ownerSVGElement) {
    const matrix = parent.ownerSVGElement.getScreenCTM();
    size *= Math.hypot(matrix.a, matrix.b);
  }
  if (size < arguments[0]) small.push([size, walker.currentNode.data.trim()]);
}
return small
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    for argument in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def grey(folder):
    folder = make_run(folder)
    evaluate(folder / "test")
    return folder


def colour_with_every_warning(folder):
    """Names and paths without a place to break a line, a wide table, and every kind of text that a report has."""
    long = "a-very-long-name_" + "x" * 120
    folder = make_run(folder, channels=3, psnr=lambda epoch: 10 + 0.1 * epoch, dataset_dir=f"/{long}", **{long: long})
    write(folder / "summary.json", {"skipped": [f"{long} is broken."], "remark": "crops of photographs"})
    write(folder / "datalist.json", DATALIST | {"test": [], "dataset_dir": f"/{long}", "description": long})
    evaluate(folder / "test", channels=3, names=[f"{long}.jpg"], active_units=0, kernel_variance=50.0)
    row = {"unit": "nats per image", "what": "what " * 40, "features": "", "better": "higher", "reason": ""}
    measures = {"a": row | {"name": "−log p", "value": -1234.5}, "b": row | {"name": "LPIPS", "value": None}}
    write(folder / "test" / "measures.json", {"title": "test", "notes": [long], "measures": measures})
    return folder


def unfinished(folder):
    return make_run(folder, epochs=1, finished=False)


@pytest.fixture(scope="module", params=[grey, colour_with_every_warning, unfinished], ids=lambda make: make.__name__)
def page(request, tmp_path_factory):
    return write_report(request.param(tmp_path_factory.mktemp(request.param.__name__) / "run"))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_in_a_browser(browser, page, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())
    assert browser.title == "Run run · monai_blurvae"
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert browser.execute_script("return window.innerWidth") == width
    assert browser.execute_script(IMAGES) == []
    assert browser.execute_script(DRAWINGS) == []
    assert browser.execute_script(OVERFLOW) <= 0
    assert browser.execute_script(OUTSIDE) == []
    assert browser.execute_script(TEXT, SMALLEST_TEXT) == []
    assert browser.get_log("browser") == []
    requested = [
        entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]
    ]
    assert not [message for message in requested if '"url":"http' in message]
    assert any(page.as_uri() in message for message in requested)


def test_the_measurements_notice_what_is_wrong(browser, tmp_path):
    """A page on which each of them fails."""
    svg = '<svg viewBox="0 0 400 200" width="100"><text y="20" font-size="16">small</text></svg>'
    page = f'<p style="font-size: 11px">tiny</p><p style="width: 2000px">wide</p>{svg}<img src="x.png" alt="absent">'
    (tmp_path / "bad.html").write_text(f"<!DOCTYPE html><body>{page}<script>console.error('bad')</script>")
    browser.get_log("browser")
    browser.get((tmp_path / "bad.html").as_uri())
    assert browser.execute_script(IMAGES) == ["absent"]
    assert browser.execute_script(DRAWINGS) == [None]
    assert browser.execute_script(OVERFLOW) > 0
    assert len(browser.execute_script(OUTSIDE)) == 1
    assert [text for _, text in browser.execute_script(TEXT, SMALLEST_TEXT)] == ["tiny", "small"]
    assert any("bad" in entry["message"] for entry in browser.get_log("browser"))
