"""The live figure of a run, in Chromium: what the record says, and nothing else."""

import gzip
import re
import statistics

import pytest

from live_page import AT_SIZES, STATUS, change, in_browser, live, troubles, write_page

figures, film = pytest.importorskip("figures"), pytest.importorskip("film")

SEEN = """() => ({
    where: document.querySelector(".where").textContent,
    text: document.querySelector(".film pre").textContent,
    shown: [...document.querySelectorAll(".skills li")].map(
        (row) => row.classList.contains("shown")),
    counts: [...document.querySelectorAll(".count")].map((e) => e.textContent),
    now: Number(document.querySelector(".time").getAttribute("aria-valuenow")),
    read: document.querySelector(".held-out p").textContent,
    function: document.querySelector(".held-out pre").textContent,
    nats: [...document.querySelectorAll(".held-out span")].map(
        (cell) => Number(cell.style.getPropertyValue("--nats"))),
    handle: Number(document.querySelector(".handle circle").getAttribute("cx")),
})"""


@pytest.fixture(scope="module")
def points() -> list[dict]:
    """The texts of the record, as the chapter reads them."""
    return figures.read_lines("medium", "texts")


def test_the_waypoints_and_the_skills_are_those_that_the_chapter_asserts():
    data = film.film("medium")
    assert [*data["waypoints"]] == ["knows nothing", "knows frequencies", "knows pairs"]
    nothing, frequencies, pairs = data["waypoints"].values()
    assert 4.59 < nothing < 4.6 and nothing > frequencies > pairs > 2.4
    counts = {point["step"]: point["counts"] for point in data["points"]}
    assert counts[500]["keyword"] == 0 and counts[1000]["keyword"] >= 0.7 * 64
    assert counts[1500]["blocks"] - counts[2000]["blocks"] > 0.3 * 64
    assert counts[16000]["function"] == 8 and data["of"] == 64


def test_what_a_film_weighs():
    marker = live.marker("film", {"instead": "fig", "text": "medium"})
    assert len(gzip.compress(marker.encode())) < 40_000


@pytest.fixture(scope="module")
def tab(chromium, tmp_path_factory):
    """A page with the film, stopped at its first point, and nothing asked for since."""
    folder = tmp_path_factory.mktemp("film")
    page = write_page(folder, "page.html", "film", text="medium")
    change(folder / "live_film.js", PACE=30)
    tab = chromium.new_page()
    tab.asked = []
    tab.goto(page.as_uri())
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.click("figure button")
    yield tab
    assert tab.asked == []
    tab.close()


def check(seen: dict, points: list[dict], row: int = 0) -> None:
    """Is what is seen in the record?"""
    point = points[seen["now"]]
    assert seen["text"] == point["texts"][row]
    assert seen["where"] == (
        f"Step {point['step']:,}, {point['val_loss']:.2f} nats, text {row + 1} of 6"
    )
    judges = film.judges().values()
    assert seen["shown"] == [bool(judge(seen["text"])) for judge in judges]
    counts = [sum(map(bool, map(judge, point["texts"]))) for judge in judges]
    assert seen["counts"] == [f"{count} of 64" for count in counts]
    record = figures.read_moments("medium")
    moment = [m for m in record["moments"] if m["step"] <= point["step"]][-1]
    assert seen["function"] == record["function"]
    assert seen["nats"] == pytest.approx(
        [min(loss, 5) for loss in moment["nats"]], abs=0.051
    )
    step, mean = re.search(r"step ([\d,]+): (\S+) nats", seen["read"]).groups()
    assert int(step.replace(",", "")) == moment["step"]
    assert float(mean) == pytest.approx(statistics.mean(moment["nats"]), abs=0.03)


@in_browser
def test_it_plays_to_its_end_and_says_so(tab, points):
    tab.wait_for_function(f"{STATUS}.startsWith('Step 16,000')", timeout=30_000)
    seen = tab.evaluate(SEEN)
    assert seen["now"] == len(points) - 1 and tab.inner_text(".write") == "Play"
    check(seen, points)
    assert "8 a whole function" in tab.evaluate(STATUS)


@in_browser
def test_a_handle_and_keys_lead_to_each_point_and_another_text(tab, points):
    tab.wait_for_function(f"{STATUS}.startsWith('Step 16,000')", timeout=30_000)
    box = tab.locator(".time").bounding_box()
    tab.mouse.move(box["x"] + 100, box["y"] + 50)
    tab.mouse.down()
    places = set()
    for x in range(100, int(box["width"]), 12):
        tab.mouse.move(box["x"] + x, box["y"] + 60)
        seen = tab.evaluate(SEEN)
        if seen["now"] not in places:
            check(seen, points)
        places.add(seen["now"])
        assert abs(seen["handle"] - x) < 150  # recorded points are not everywhere
    tab.mouse.up()
    assert len(places) > 12
    tab.focus(".time")
    for key, now in (("Home", 0), ("ArrowLeft", 0), ("ArrowRight", 1), ("End", 25)):
        tab.keyboard.press(key)
        seen = tab.evaluate(SEEN)
        assert seen["now"] == now
        check(seen, points)
    for row in (1, 2, 3, 4, 5, 0):
        tab.click(".other")
        check(tab.evaluate(SEEN), points, row)
    tab.focus(".time")
    tab.keyboard.press("End")
    spoken = tab.get_attribute(".time", "aria-valuetext")
    assert spoken.startswith("Step 16,000, 0.78 nats.")


@in_browser
def test_play_begins_again_and_can_be_stopped(tab):
    tab.focus(".time")
    tab.keyboard.press("End")
    tab.click(".write")
    tab.wait_for_function("document.querySelector('.time').ariaValueNow > 2")
    tab.click(".write")
    now = tab.evaluate(SEEN)["now"]
    tab.wait_for_timeout(150)
    assert 2 < tab.evaluate(SEEN)["now"] == now < 25


@in_browser
@AT_SIZES
def test_it_fits_and_can_be_read_by_all(tab, scheme, width):
    assert troubles(tab, scheme, width) == []
