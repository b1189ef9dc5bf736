"""The dashboard in a real browser: its figures under traffic, its playground, who may see it, and whom it speaks to."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from node import Node
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.server.running import Surface, chat, request, surface
from tierserve.config import EscalationConfig
from tierserve.core import Prompt
from tierserve.lab.question import Split
from tierserve.lab.tasks import mix
from tierserve.router.scoring.head import DEFAULT, Example, Head
from tierserve.server.api import DASHBOARD
from tierserve.server.dashboard import pages
from tierserve.tiers.base import TierState
from tierserve.tiers.scripted import Step

SURE: list[Step] = [("Hello ", 0.99), ("there", 0.99)]
UNSURE: list[Step] = [("Hm", 0.05), ("m", 0.05)]
MARKUP = '<img src=x onerror="document.title=1"><script>document.title="run"</script>'
ADMIN, PLAIN = "an-admin-s-key-of-enough-characters", "a-plain-key-that-is-long-enough-too"
_PATIENCE_S = 120  # for machines whose cores are busy; nothing is measured by it


class Page:
    """What a person does with it and sees."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.origin = ""

    def open(self, origin: str) -> None:
        self.noise()
        self.driver.get("about:blank")
        self.origin = origin
        self.driver.get(f"{origin}/dashboard")

    def text(self, place: str) -> str:
        return str(self.driver.find_element("css selector", place).text)

    def until(self, condition: Callable[[], object], what: str) -> None:
        ignored = [StaleElementReferenceException]  # the table was drawn anew while it was being read
        WebDriverWait(self.driver, _PATIENCE_S, 0.05, ignored).until(lambda _: condition(), what)

    def shows(self, place: str, part: str) -> None:
        try:
            self.until(lambda: part in self.text(place), "")
        except Exception:
            pytest.fail(f"{place} does not show {part!r} but {self.text(place)!r}")

    def visible(self, place: str) -> bool:
        return bool(self.driver.find_element("css selector", place).is_displayed())

    def keys(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        return str(self.driver.execute_script("return document.activeElement.id || document.activeElement.tagName"))

    def tab_to(self, name: str) -> None:
        """By the keyboard alone."""
        for _ in range(40):
            if self.focused() == name:
                return
            self.keys(Keys.TAB)
        pytest.fail(f"{name} is not reached by tabs")

    def ask(self, prompt: str) -> None:
        box = self.driver.find_element("id", "prompt")
        box.clear()
        box.send_keys(prompt)
        self.driver.find_element("id", "send").click()

    def noise(self) -> list[str]:
        """What the console complained of since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def asked(self) -> set[str]:
        """Every address that the browser asked since this was last asked."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [each for each in messages if each["method"] == "Network.requestWillBeSent"]
        return {each["params"]["request"]["url"] for each in sent}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        yield Page(driver)
    finally:
        driver.quit()


@pytest.fixture
async def running() -> AsyncIterator[Surface]:
    async with surface(escalation=EscalationConfig()) as node:
        node.small.script, node.large.script = SURE, ["The large one's"]
        yield node


def origin(node: Surface) -> str:
    return f"http://127.0.0.1:{node.port}"


async def traffic(node: Surface, count: int, text: str = "simple") -> None:
    answers = await asyncio.gather(*(node.exchange(request(chat(text, stream=True))) for _ in range(count)))
    assert {answer.status for answer in answers} == {200}


async def test_an_idle_node_s_page_says_what_to_do(running: Surface, page: Page) -> None:
    page.open(origin(running))
    page.shows("#empty", f"curl {origin(running)}/v1/chat/completions")
    assert page.text("#small-share") == "–"
    assert "None yet" in page.text("#decisions")
    assert page.noise() == []


async def test_figures_change_under_traffic(running: Surface, page: Page) -> None:
    page.open(origin(running))
    page.shows("#traffic", "0 in 5 min")
    await traffic(running, 6)
    await traffic(running, 2, "a hard one")
    page.shows("#traffic", "8 in 5 min, 8 since the start")
    assert not page.visible("#empty")
    assert (page.text("#small-share"), page.text("#escalated")) == ("75.0 %", "0.0 %")
    assert "s 6, l 2" in page.text("#split")
    running.small.script = UNSURE
    await traffic(running, 4)
    page.shows("#doubts", "confidence too low\n4")
    page.shows("#escalated", "40.0 %")
    page.shows("#split", "s 6, l 6")
    page.shows("#decisions", "escalation: confidence too low")
    assert "escalation" in page.text("#decisions tbody tr:first-child")
    assert "ms" in page.text("#latency") and "None" not in page.text("#latency")
    assert "10 up to it, 2 above" in page.text("#threshold")
    for chart in ("rates", "first", "scores"):
        canvas = page.driver.find_element("css selector", f"#{chart} canvas")
        assert canvas.size["width"] > 300 and canvas.size["height"] > 100
        assert page.driver.find_element("id", chart).get_attribute("aria-label")
    assert page.noise() == []


async def test_drift_shows_as_soon_as_it_is_known(running: Surface, page: Page) -> None:
    page.open(origin(running))
    page.shows("#drift", "No comparisons yet")
    found = {"alarm": True, "summary": "ALARM: win_rate", "details": ["small did as well as large: 71.0 %"]}
    running.app[DASHBOARD].feed.drift = lambda: found
    page.shows("#drift", "ALARM: win_rate\nsmall did as well as large: 71.0 %")


async def test_the_page_speaks_to_its_node_alone_and_nobody_frames_it(running: Surface, page: Page) -> None:
    page.asked()
    page.open(origin(running))
    page.shows("#link", "Live")
    page.ask("simple")
    page.shows("#progress", "Done")
    asked = {url for url in page.asked() if not url.startswith(("data:", "about:"))}
    assert {url.removeprefix(origin(running)) for url in asked} >= {"/dashboard", "/dashboard/feed", "/v1/route"}
    assert all(url.startswith(f"{origin(running)}/") for url in asked), asked
    for path in ("/dashboard", "/dashboard/static/dashboard.js", "/dashboard/static/uplot/uPlot.min.css"):
        answer = await running.exchange(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert answer.status == 200
        policy = answer.headers["content-security-policy"]
        for rule in ("default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'"):
            assert rule in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


async def test_the_playground_shows_a_routed_answer_beside_the_other_tier_s(running: Surface, page: Page) -> None:
    page.open(origin(running))
    page.shows("#link", "Live")
    page.ask("simple")
    page.shows("#progress", "Done: s answered")
    assert "Score 3.00 of 10, up to the threshold of 4.00" in page.text("#scale-text")
    assert page.text("#routed .text") == "Hello there"
    facts = page.text("#routed .facts")
    assert all(fact in facts for fact in ("s", "score 3.00", "cause score", "confidence 0.990", "not escalated"))
    assert page.text("#other .text") == "The large one's"
    assert "l: first token after" in page.text("#other .times")
    assert "ms" in page.text("#routed .times")
    assert page.noise() == []


async def test_the_playground_shows_the_nearest_prompts(
    running: Surface, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Head.load(DEFAULT)
    known = head.nearest(np.ones(head.dimensions, np.float32), 3)  # the words here have no vector of that length

    async def nearest(prompt: Prompt, count: int) -> list[Example]:
        assert prompt.text == "simple"
        return known[:count]

    monkeypatch.setattr(running.router, "nearest", nearest)
    page.open(origin(running))
    page.shows("#link", "Live")
    page.ask("simple")
    page.shows("#nearest", " ".join(known[-1].text.split())[:30])
    rows = page.driver.find_elements("css selector", "#nearest li")
    assert len(rows) == 3
    for row, example in zip(rows, known, strict=True):
        kind, cosine = row.text.split()[:2]
        assert kind == ("hard" if example.hard else "simple")
        assert float(cosine) == pytest.approx(example.cosine, abs=0.006)


async def test_the_playground_shows_an_escalation(running: Surface, page: Page) -> None:
    running.small.script = UNSURE
    page.open(origin(running))
    page.shows("#link", "Live")
    page.ask("simple")
    page.shows("#progress", "Done: escalated to l")
    assert page.text("#routed .text") == "The large one's"
    assert "escalated" in page.text("#routed .facts").splitlines()
    assert "confidence 0.050" in page.text("#routed .facts")
    assert page.text("#other .text") == "Hmm"  # the small tier's own, asked by name


async def test_the_playground_says_what_went_wrong(running: Surface, page: Page) -> None:
    page.open(origin(running))
    page.shows("#link", "Live")
    running.small.state = running.large.state = TierState.FAILED
    page.until(lambda: page.driver.find_element("id", "link").get_attribute("data-state") == "bad", "a bad state")
    page.ask("simple")
    page.shows("#progress", "Not answered: ")
    assert page.text("#routed .text")


async def test_a_prompt_with_markup_is_text_and_so_is_an_answer(running: Surface, page: Page) -> None:
    running.small.script = running.large.script = [(MARKUP, 0.99)]
    page.open(origin(running))
    page.shows("#link", "Live")
    page.ask(MARKUP)
    page.shows("#progress", "Done")
    assert page.text("#routed .text") == page.text("#other .text") == MARKUP
    assert page.driver.find_elements("css selector", "main img, main script") == []
    assert page.driver.title == "tierserve"
    assert page.noise() == []


async def test_the_keyboard_suffices(running: Surface, page: Page) -> None:
    page.open(origin(running))
    page.shows("#link", "Live")
    page.keys(Keys.TAB)
    skip = page.driver.switch_to.active_element
    assert skip.text == "Skip to the figures" and skip.location["y"] >= 0  # it shows when it has the focus
    page.tab_to("theme")
    page.keys(Keys.ENTER)
    assert page.text("#theme") == "Theme: light"
    page.tab_to("prompt")
    assert page.driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    webdriver.ActionChains(page.driver).send_keys("simple").key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(
        Keys.CONTROL
    ).perform()
    page.shows("#progress", "Done: s answered")
    unlabelled = "return [...document.querySelectorAll('input, textarea')].filter((each) => !each.labels.length).length"
    assert page.driver.execute_script(unlabelled) == 0


async def test_a_phone_needs_no_scrolling_sideways_and_both_themes_differ(running: Surface, page: Page) -> None:
    await traffic(running, 3)
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        page.open(origin(running))
        page.shows("#traffic", "3 in 5 min")
        assert page.driver.execute_script("return document.documentElement.scrollWidth") == 360
        grounds = set()
        for scheme in ("light", "dark"):
            media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            page.driver.execute_script("localStorage.clear()")
            page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            page.open(origin(running))
            page.shows("#theme", "Theme: system")
            grounds.add(page.driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 2
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


async def test_a_node_that_went_away_is_said_and_found_again(page: Page) -> None:
    async with surface() as node:
        page.open(origin(node))
        page.shows("#link", "Live")
        node.loop.call_soon_threadsafe(node.draining.set)
        page.shows("#link", "The node is away: reconnecting")
        node.loop.call_soon_threadsafe(node.draining.clear)
        page.shows("#link", "Live")


async def test_a_feed_ends_now_and_then_and_the_page_goes_on(
    running: Surface, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_EVENTS", 1)
    page.open(origin(running))
    page.shows("#traffic", "0 in 5 min")
    page.asked()
    await traffic(running, 2)
    page.shows("#traffic", "2 in 5 min")
    page.until(lambda: f"{origin(running)}/dashboard/feed" in page.asked(), "another feed")
    assert page.text("#link") == "Live"


async def test_with_keys_the_page_asks_for_an_admin_s(page: Page, tmp_path: Path) -> None:
    entries = [
        {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "admin": key == ADMIN}
        for name, key in (("boss", ADMIN), ("app", PLAIN))
    ]
    (tmp_path / "keys.yaml").write_text(json.dumps(entries))
    async with surface(keys={"file": str(tmp_path / "keys.yaml")}) as node:
        for path, statuses in (("feed", (401, 403)), ("static/dashboard.js", (200, 200))):
            for key, status in zip(("", PLAIN), statuses, strict=True):
                bearer = f"authorization: Bearer {key}\r\n" if key else ""
                sent = f"GET /dashboard/{path} HTTP/1.1\r\nhost: x\r\n{bearer}\r\n"
                assert (await node.exchange(sent.encode())).status == status, (path, key)
        nearest = request({"prompt": "x"}, "/dashboard/nearest")
        assert (await node.exchange(nearest)).status == 401
        page.open(origin(node))
        assert page.visible("#gate") and not page.visible("main")
        assert page.noise() == []  # it asked before it was refused
        assert page.focused() == "key"
        page.keys(PLAIN, Keys.ENTER)
        page.shows("#gate-error", "use an admin's")
        page.keys(ADMIN, Keys.ENTER)
        page.shows("#link", "Live")
        page.ask("simple")
        page.shows("#progress", "Done: s answered")
        page.driver.refresh()
        page.shows("#link", "Live")  # it is kept in the tab
        page.driver.find_element("id", "forget").click()
        page.until(lambda: page.visible("#gate"), "the key to be forgotten")
        assert page.driver.execute_script("return sessionStorage.length") == 0


async def test_feeds_end_with_the_node_and_hold_no_text(running: Surface) -> None:
    await traffic(running, 2, "a-word-of-the-caller-s")
    caller = await running.connect()
    await caller.send(b"GET /dashboard/feed HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    asyncio.get_running_loop().call_later(1.5, running.loop.call_soon_threadsafe, running.draining.set)
    answer = await caller.answer()
    await caller.close()
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(part.removeprefix("data: ")) for part in answer.body.decode().split("\n\n") if part]
    assert len(events) >= 2
    assert events[0]["totals"]["requests"] == 2 and len(events[0]["decisions"]) == 2
    assert "a-word-of-the-caller-s" not in answer.body.decode()


@pytest.mark.parametrize("body", [{}, {"prompt": ""}, {"prompt": 3}, {"prompt": ["x"]}])
async def test_what_has_no_prompt_has_no_neighbours(running: Surface, body: dict[str, Any]) -> None:
    answer = await running.exchange(request(body, "/dashboard/nearest"))
    assert answer.status == 400 and answer.error["param"] == "prompt"


@pytest.mark.parametrize("path", ["/dashboard/static/", "/dashboard/static/../pages.py", "/dashboard/static/uplot"])
async def test_only_the_page_s_own_files_are_given(running: Surface, path: str) -> None:
    answer = await running.exchange(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert answer.status == 404


def doubted(client: openai.OpenAI) -> str:
    """The question, of some that look simple to the router, whose answer lab-small is least sure of."""
    confidences = {}
    for number, question in enumerate(mix(Split.HELD_OUT, 80, seed=31)):
        raw = client.chat.completions.with_raw_response.create(
            model="auto",
            messages=[{"role": "user", "content": question.prompt}],
            temperature=0,
            extra_headers={"x-session-id": f"doubted-{number}"},
        )
        if raw.headers["x-tierserve-escalated"] == "true":
            confidences[question.prompt] = float(raw.headers["x-tierserve-confidence"])
    return min(confidences, key=confidences.__getitem__)


@pytest.mark.engine
def test_the_playground_of_a_real_node_routes_and_escalates(node: Node, client: openai.OpenAI, page: Page) -> None:
    page.open(node.url)
    page.shows("#link", "Live")
    page.ask("The lamp is red. The phone ships to Oslo. Where does the phone ship to?")
    page.shows("#progress", "Done: lab-small answered")
    assert page.text("#routed .text") == "Oslo"
    assert page.text("#other .facts").startswith("lab-large")
    page.shows("#nearest", "Where does the lamp ship to?")  # of the questions that the lab's head was fitted to
    page.shows("#tiers", "KV cache")
    assert "%" in page.text("#tiers")
    page.ask(doubted(client))
    page.shows("#progress", "Done: escalated to lab-large")
    assert "escalated" in page.text("#routed .facts").splitlines()
    assert page.noise() == []
