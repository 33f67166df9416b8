"""The HTML page in Chromium, driven by Selenium, from a file and without network."""

import json
import math
import shutil

import pytest

from kdbench.reports.html import html
from kdbench.reports.report import report_on
from tests.reports.records import record, write

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Return the address of a report on two pairs, three losses and three seeds, with a failed run."""
    folder = tmp_path_factory.mktemp("page")
    records = [
        record(
            loss,
            seed,
            round(top1 + gain + 0.1 * seed, 2),
            teacher=teacher,
            student=student,
            curve=[[epoch, round((top1 + gain) * (1 - math.exp(-epoch / 20)), 2)] for epoch in range(1, 241)],
        )
        for teacher, student, gain in (("resnet56", "resnet20", 0.0), ("resnet32x4", "resnet8x4", 4.4))
        for loss, top1 in (("ce", 69.0), ("kd", 70.6), ("wttm", 71.9))
        for seed in range(3)
    ]
    write(folder / "runs", *records, record("kd", 9, state="failed", reason="killed"))
    (folder / "report.html").write_text(html(report_on([str(folder / "runs")], "kdbench report runs")))
    return f"file://{folder}/report.html"


@pytest.fixture(scope="module")
def driver():
    """Start a headless Chromium, or skip with the reason."""
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="the extra `browser` (selenium) is not installed"
    )
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    service = shutil.which("chromedriver")
    if not (binary and service):
        pytest.skip("chromium or chromedriver is missing (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    yield started
    started.quit()


@pytest.fixture
def opened(driver, page):
    """Load the page in a wide window; afterwards the console must be empty."""
    resize(driver, 1280)
    driver.get(page)
    yield driver
    assert driver.get_log("browser") == []


def resize(driver, width: int, scheme: str = "light") -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def find(driver, selector: str) -> list:
    return driver.find_elements("css selector", selector)


def shown(driver) -> list[tuple[str, str]]:
    """Return (loss, mean) of the visible rows, from top to bottom."""
    rows = [row for row in find(driver, "tr.row") if row.is_displayed()]
    return [
        (row.get_attribute("data-loss"), row.find_element("css selector", "td.main").text.split()[0])
        for row in rows
    ]


def heading(driver, text: str):
    return next(one for one in find(driver, "#table th[aria-sort]") if one.text.startswith(text))


def press(driver, element, key: str) -> None:
    from selenium.webdriver.common.keys import Keys

    driver.execute_script("arguments[0].focus()", element)
    driver.switch_to.active_element.send_keys(getattr(Keys, key))


def test_the_page_requests_nothing_but_itself(driver, page):
    driver.get_log("performance")
    driver.get(page)
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    requested = {
        one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"
    }
    assert requested == {page}


def test_a_heading_sorts_by_click_and_by_key(opened):
    column = heading(opened, "last top-1 %")
    button = column.find_element("css selector", "button")
    button.click()
    means = [float(mean) for _, mean in shown(opened)]
    assert (column.get_attribute("aria-sort"), means) == ("descending", sorted(means, reverse=True))
    press(opened, button, "ENTER")
    means = [float(mean) for _, mean in shown(opened)]
    assert (column.get_attribute("aria-sort"), means) == ("ascending", sorted(means))
    heading(opened, "loss").find_element("css selector", "button").click()
    assert [loss for loss, _ in shown(opened)] == ["ce", "ce", "kd", "kd", "wttm", "wttm"]
    assert column.get_attribute("aria-sort") == "none"


def test_missing_values_come_last_in_both_directions(opened):
    button = heading(opened, "z").find_element("css selector", "button")
    for _ in range(2):
        button.click()
        assert {loss for loss, _ in shown(opened)[-2:]} == {"ce"}  # published without a deviation


def test_search_and_menus_filter_rows(opened):
    words = opened.find_element("id", "words")
    words.send_keys("WTTM")
    assert [loss for loss, _ in shown(opened)] == ["wttm", "wttm"]
    words.send_keys(" resnet8x4")
    assert len(shown(opened)) == 1
    assert opened.find_element("id", "count").text == "1 of 6 rows"
    assert len(find(opened, "#scatter circle.dot:not(.small)")) == 1
    words.clear()
    words.send_keys(" ")
    menu = opened.find_element("css selector", "select[data-filter=pair]")
    press(opened, menu, "END")
    assert menu.get_attribute("value") == "resnet56:resnet20"
    assert [loss for loss, _ in shown(opened)] == ["ce", "kd", "wttm"]
    words.send_keys("matches nothing")
    assert shown(opened) == []
    assert opened.find_element("id", "scatter").text == "No row matches the filter."


def test_curves_open_by_click_and_by_key_and_show_values(opened):
    button = find(opened, "button.curve")[1]
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    assert len(find(opened, "tr.detail path.line:not(.mean):not(.other)")) == 3
    assert len(find(opened, "tr.detail path.line.mean")) == 1
    assert len(find(opened, "tr.detail path.line.other")) == 2  # the pair's two other losses
    assert len(find(opened, "tr.detail line.teacher")) == 1
    picture = opened.find_element("css selector", "tr.detail svg")
    press(opened, picture, "ARROW_LEFT")
    assert opened.find_element("css selector", ".readout").text.startswith("epoch 239: seed 0 ")
    heading(opened, "last top-1 %").find_element("css selector", "button").click()
    row = button.find_element("xpath", "ancestor::tr")
    assert row.find_element("xpath", "following-sibling::tr[1]").get_attribute("class") == "detail"
    press(opened, button, "ENTER")
    assert (button.get_attribute("aria-expanded"), find(opened, "tr.detail")) == ("false", [])
    press(opened, button, "SPACE")
    assert len(find(opened, "tr.detail")) == 1


def test_curves_show_on_hover(opened):
    from selenium.webdriver import ActionChains

    peek = opened.find_element("id", "peek")
    assert not peek.is_displayed()
    ActionChains(opened).move_to_element(find(opened, "button.curve")[0]).perform()
    assert peek.is_displayed()
    assert len(peek.find_elements("css selector", "path.mean")) == 1
    ActionChains(opened).move_to_element(opened.find_element("css selector", "h1")).perform()
    assert not peek.is_displayed()


def test_two_configurations_are_compared(opened):
    keys = [one.text for one in find(opened, "#difference th[scope=row]")]
    assert "loss.weights.kd" in keys
    assert "seed" not in keys
    press(opened, opened.find_element("id", "second"), "HOME")
    assert opened.find_element("css selector", "#difference tbody").text.startswith("The same configuration")


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_never_scrolls_sideways(opened, width):
    resize(opened, width)
    opened.refresh()
    opened.execute_script("document.querySelector('button.curve').click()")
    of = "document.documentElement"
    page, screen, window = opened.execute_script(f"return [{of}.scrollWidth, {of}.clientWidth, innerWidth]")
    assert (page, window) == (screen, width)  # a phone widens its viewport for content that is too wide
    for box in find(opened, ".detail-body, #scatter svg, #filters"):
        assert box.rect["x"] >= 0
        assert box.rect["x"] + box.rect["width"] <= width


def test_both_colour_schemes_have_readable_contrast(opened):
    colours = {}
    for scheme in ("light", "dark"):
        resize(opened, 1280, scheme)
        colours[scheme] = opened.execute_script(
            "return ['body', 'td.main', '.hint', 'thead th'].map((one) => {"
            " const style = getComputedStyle(document.querySelector(one));"
            " return [style.color, getComputedStyle(document.body).backgroundColor] })"
        )
        for text, paper in colours[scheme]:
            assert contrast(text, paper) >= 4.5, (scheme, text, paper)
    assert luminance(colours["dark"][0][1]) < 0.1 < luminance(colours["light"][0][1])


def luminance(colour: str) -> float:
    """Return the relative luminance of `rgb(r, g, b)` by WCAG 2.2."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio by WCAG 2.2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_control_is_reachable_by_keyboard_and_shows_focus(opened):
    from selenium.webdriver.common.keys import Keys

    seen = set()
    for _ in range(60):
        opened.switch_to.active_element.send_keys(Keys.TAB)
        seen.add(
            opened.execute_script("const e = document.activeElement; return e.className || e.id || e.tagName")
        )
        if "curve" in seen:
            break
    assert {"words", "sort", "scroll", "curve"} <= seen
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert opened.execute_script(outline) == "solid"
