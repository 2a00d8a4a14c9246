"""The live figure with and without the cache, in Chromium: a race with honest counts."""

import shutil

import pytest

from live_page import AT_SIZES, STATUS, change, in_browser, troubles, write_page

WAYS = """() => [...document.querySelectorAll(".race section")].map((pane) => {
    const tell = (name) => pane.querySelector(name).textContent;
    return { text: tell("pre"), last: tell(".last"), count: Number(tell(".characters")),
        positions: Number(tell(".positions").replace(",", "")),
        speed: Number(tell(".speed")) };
})"""
LENGTH = 24


@pytest.fixture(scope="module")
def tab(chromium, tmp_path_factory, weights_js):
    """A page whose figure writes less, so that the slow one ends, too."""
    folder = tmp_path_factory.mktemp("cache")
    more = {"fig2": {"kind": "film", "text": "medium"}}
    page = write_page(folder, "page.html", "cache", more, text="def ")
    shutil.copy(weights_js, folder)
    change(folder / "live_cache.js", LENGTH=LENGTH)
    tab = chromium.new_page()
    tab.goto(page.as_uri())
    tab.click("#fig button")
    yield tab
    tab.close()


def ended(tab) -> list[dict]:
    """What both have done when the figure has stopped by itself."""
    tab.wait_for_function(
        "document.querySelector('.race .write')?.textContent === 'Start again'",
        timeout=120_000,
    )
    return tab.evaluate(WAYS)


@in_browser
def test_both_write_the_same_text_and_their_positions_are_counted(tab):
    slow, fast = ended(tab)
    given = 4 + 1  # the prompt, and <eos> before it
    assert slow["text"] == fast["text"] and len(slow["text"]) == 4 + LENGTH
    assert slow["count"] == fast["count"] == LENGTH
    assert slow["positions"] == sum(given + n for n in range(LENGTH))
    assert fast["positions"] == given + LENGTH - 1
    assert slow["last"] == f"{given + LENGTH - 1} computed, 0 kept"
    assert fast["last"] == f"1 computed, {given + LENGTH - 2} kept"
    assert fast["speed"] > 3 * slow["speed"] > 0
    expected = tab.evaluate(
        """async (settings) => {
        const ask = minigpt.start_worker();
        await ask("load", await minigpt.fetch_weights("weights.js"));
        await ask("begin", "def ", settings);
        let text = "def ";
        for (let c; (c = await ask("next")); ) text += c;
        return text;
    }""",
        {"seed": 1, "max_new_tokens": LENGTH, "min_new_tokens": LENGTH},
    )
    assert fast["text"] == expected


@in_browser
def test_another_text_can_be_begun_stopped_and_is_looked_at_first(tab):
    ended(tab)
    tab.fill(".race input", "caf\N{LATIN SMALL LETTER E WITH ACUTE} = ")
    tab.click(".race .write")
    tab.wait_for_function(f"{STATUS}.includes('(U+00E9)')")
    begun = f"({WAYS})().every((way) => way.text.startsWith('caf'))"
    further = f"(([slow, fast]) => fast.count > slow.count + 1)(({WAYS})())"
    tab.wait_for_function(f"{begun} && {further}", timeout=60_000)
    tab.click(".race .write")
    tab.wait_for_function(f"{STATUS}.startsWith('Without the cache')")
    slow, fast = tab.evaluate(WAYS)
    assert fast["text"].startswith(slow["text"]) and slow["text"][:7] == "caf\xe9 = "
    assert f"{fast['count']} characters" in tab.evaluate(STATUS)
    tab.wait_for_timeout(200)
    assert tab.evaluate(WAYS) == [slow, fast]


@in_browser
def test_never_more_than_one_figure_runs(tab):
    ended(tab)
    race, play = tab.locator(".race .write"), tab.locator(".film .write")
    race.click()
    assert race.inner_text() == "Stop"
    tab.click("#fig2 .invite button")
    assert (race.inner_text(), play.inner_text()) == ("Start again", "Stop")
    race.click()
    assert (race.inner_text(), play.inner_text()) == ("Stop", "Play")
    race.click()


@in_browser
@AT_SIZES
def test_it_fits_and_can_be_read_by_all(tab, scheme, width):
    ended(tab)
    assert troubles(tab, scheme, width) == []
