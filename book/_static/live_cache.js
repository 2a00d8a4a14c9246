/* With the cache and without: the model writes the same text twice, side by side. Both
   have the same computing time, since the worker always goes on with the one that has had
   less, a position at a time. So how far they come is a race, on any machine. */
(() => { "use strict";
const { run, not_known, wait } = live;
const LENGTH = 400; // characters to write
const SLICE = 24; // milliseconds of computing between two pictures

/* --- In the worker ------------------------------------------------------------------ */

function racing(saved, { UNK, before, encode, drawn_from }) { // it travels as text
  let ways = [];

  function* write(ids, keeps, seed) { // yields what is written after each position, if any
    const { model, tokenizer } = saved(), text = [...ids], random = minigpt.generator(seed);
    let cache, start;
    while (true) {
      const begin = minigpt.window_start(text.length, model.config.context_length);
      if (!keeps || begin !== start) [cache, start] = [minigpt.KVCache(model.config), begin];
      const unread = text.slice(start + cache.length), kept = cache.length;
      for (const [i, id] of unread.entries()) {
        const logits = model.forward(id, cache);
        if (i < unread.length - 1) { yield {}; continue; }
        const chosen = minigpt.choose(drawn_from(logits, { may_end: false }), {}, random);
        text.push(chosen);
        yield { character: tokenizer.decode([chosen]), kept, read: unread.length };
      }
    }
  }

  return {
    race(prompt, seed) { // -> the characters that are not known, and how long the window is
      const ids = encode(prompt);
      ways = [false, true].map((keeps) => ({ steps: write([...before(), ...ids], keeps, seed),
        text: "", positions: 0, milliseconds: 0, kept: 0, read: 0 }));
      return [Array.from(prompt).filter((_, i) => ids[i] === UNK),
        saved().model.config.context_length];
    },
    go(milliseconds, length) { // both write on for a while
      const until = performance.now() + milliseconds;
      const unfinished = () => ways.filter(({ text }) => text.length < length)
        .sort((a, b) => a.milliseconds - b.milliseconds)[0];
      for (let way; performance.now() < until && (way = unfinished()); ) {
        const began = performance.now();
        const { character = "", kept, read } = way.steps.next().value;
        way.milliseconds += performance.now() - began;
        way.positions += 1;
        way.text += character;
        if (character) [way.kept, way.read] = [kept, read];
      }
      return ways.map(({ steps, ...told }) => told);
    },
  };
}

/* --- In the page -------------------------------------------------------------------- */

const WAY = (name) => `<section aria-label="${name}"><p class="way">${name}</p>
  <pre class="sheet" tabindex="0" aria-label="What it writes, ${name.toLowerCase()}"></pre>
  <div class="view" aria-hidden="true"><i class="kept"></i><i class="read"></i></div>
  <dl>
    <dt>for the last character</dt><dd class="last"></dd>
    <dt>characters</dt><dd class="characters"></dd>
    <dt>positions computed</dt><dd class="positions"></dd>
    <dt>computing time</dt><dd class="seconds"></dd>
    <dt>characters a second</dt><dd class="speed"></dd>
  </dl></section>`;

const html = () => `<div class="race">
  <p class="hint">The worker takes turns, so that both have had the same computing time. The bar
    is the window: what is computed for the last character, and what was kept.</p>
  ${WAY("Without the cache")}${WAY("With the cache")}
  <div class="doing"><button type="button" class="write">Start</button>
    <label>It begins with <input class="field" maxlength="120" spellcheck="false" autocapitalize="off"
      autocomplete="off" autocorrect="off"></label></div>
</div>`;

function begin(box, { text: first }, status, ask) {
  const button = box.querySelector(".write"), prompt = box.querySelector("input");
  const panes = [...box.querySelectorAll("section")];
  let running = null, seed = 0, given;

  const speed = ({ text, milliseconds }) => 1000 * text.length / milliseconds || 0;
  const rounded = (number) => number.toFixed(number < 10 ? 1 : 0);

  function show(ways) {
    panes.forEach((pane, i) => {
      const way = ways[i], tell = (name, text) => {
        pane.querySelector(`.${name}`).textContent = text;
      };
      const pre = pane.querySelector("pre");
      if (pre.textContent !== given + way.text) {
        pre.textContent = given + way.text;
        pre.scrollTop = pre.scrollHeight;
      }
      pane.style.setProperty("--kept", way.kept);
      pane.style.setProperty("--read", way.read);
      tell("last", `${way.read} computed, ${way.kept} kept`);
      tell("characters", way.text.length);
      tell("positions", way.positions.toLocaleString("en"));
      tell("seconds", `${(way.milliseconds / 1000).toFixed(1)} s`);
      tell("speed", rounded(speed(way)));
    });
  }

  function stop() {
    running = null;
    button.textContent = "Start again";
  }

  async function start() {
    run(stop);
    const mine = running = {}; // {} is equal to itself only
    button.textContent = "Stop";
    given = prompt.value;
    const [strange, context_length] = await ask("race", given, seed += 1);
    box.style.setProperty("--window", context_length);
    status.textContent = not_known(strange) || "Both write.";
    let ways, ended = false;
    do {
      ways = await ask("go", SLICE, LENGTH);
      show(ways);
      if (running !== mine) break;
      const done = ways.map(({ text }) => text.length === LENGTH);
      if (done[1] && !ended) status.textContent = told(ways);
      ended = done[1];
      if (done.every(Boolean)) stop();
      await wait(0);
    } while (running === mine);
    if (running === null) status.textContent = told(ways);
  }

  function told(ways) {
    const [slow, fast] = ways.map((way) => `${way.text.length} characters from `
      + `${way.positions.toLocaleString("en")} positions, ${rounded(speed(way))} a second`);
    return `Without the cache ${slow}; with it ${fast}.`;
  }

  prompt.value = first;
  prompt.addEventListener("input", () => running && stop());
  button.addEventListener("click", () => running ? stop() : start());
  return start();
}

live.figure("cache", { calls: racing, needs_model: true, html, begin,
  button: "Let it write both ways" });
})();
