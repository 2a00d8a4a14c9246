/* What a text looks at: the character that is pointed at asks, arcs run from it to what it
   looks at, as wide as the weight, and bars give the shares. A wall of small maps, one for
   each head, picks the head. The weights over the texts of the page came with it, computed
   when the book was built. A text of one's own needs the model, and so does silencing. */
(() => { "use strict";
const { bring, load, brought, SIZE, visible, spoken, not_known, element } = live;
const LONGEST = 48, FOLLOWED = 32; // characters of one's own text, and of a reader's

/* --- In the worker ------------------------------------------------------------------ */

function attending(saved, { UNK, encode, softmax }) { // it travels as text
  return {
    attend(text, silenced) { // the weights in the order of the page's, and what it costs
      const { model } = saved(), { n_layers, n_heads } = model.config;
      const ids = encode(text).slice(-model.config.context_length);
      const rows = ids.length * (ids.length + 1) / 2;
      const weights = new Float32Array(n_layers * n_heads * rows);
      const cache = minigpt.KVCache(model.config), nats = [];
      let logits;
      ids.forEach((id, t) => {
        if (t) nats.push(-Math.log(softmax(logits)[id]));
        logits = model.forward(id, cache, (block, h, seen) => {
          const head = block * n_heads + h;
          weights.set(seen, head * rows + t * (t + 1) / 2);
          return silenced.includes(head) ? seen.fill(0) : seen;
        });
      });
      return { weights, nats, unknown: ids.map((id) => id === UNK), heads: n_heads,
        longest: model.config.context_length };
    },
  };
}

/* --- In the page -------------------------------------------------------------------- */

const html = ({ texts, full }) => `<div class="attention">
  <p class="hint">Point at a character: it asks, and arcs run to what it looks at, as wide as
    the weight. Each small map is a head, with a row for each query, and blocks lie below each
    other: pick one. Arrow keys do both.</p>
  <div class="texts" role="group" aria-label="The text">
    ${JSON.parse(texts).map(() => `<button type="button"><code></code></button>`).join("")}
  </div>
  <div class="looking" role="slider" tabindex="0" aria-label="The character that asks"
    aria-valuemin="1"><svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">
    </svg><div class="cells" aria-hidden="true"></div></div>
  <div class="wall" role="radiogroup" aria-label="The head"></div>
  <div class="doing">
    <button type="button" class="own">Your own text <small>${SIZE}</small></button>
    ${full ? `<button type="button" class="silence" aria-pressed="false">Silence this head
      <small>${SIZE}</small></button>` : ""}
    <label hidden>Your own text <textarea class="field" rows="2" spellcheck="false" autocapitalize="off"
      autocomplete="off" autocorrect="off"></textarea></label>
  </div>
  ${full ? `<p class="cost"></p>` : ""}
</div>`;

function unpacked(base64) { // bytes, 255 for all of the weight, as numbers up to 1
  return Float32Array.from(atob(base64), (letter) => letter.charCodeAt() / 255);
}

function arc(query, key, T, weight) { // from one character to another, or to itself
  const [from, to] = [query + 0.5, key + 0.5];
  const top = 0.85 - 1.1 * Math.abs(query - key) / T;
  const path = query === key
    ? `M${from - 0.2} 1C${from - 0.9} 0.6 ${from + 0.9} 0.6 ${from + 0.2} 1`
    : `M${from} 1C${from} ${top} ${to} ${top} ${to} 1`;
  return `<path d="${path}" style="stroke-width: ${(10 * weight).toFixed(2)}px"/>`;
}

function begin(box, data, status, ask) {
  const find = (selector) => box.querySelector(selector);
  const texts = JSON.parse(data.texts), came = data.looks.split(" ").map(unpacked);
  const presets = [...box.querySelectorAll(".texts button")], strip = find(".looking");
  const wall = find(".wall"), own = find("textarea"), silence = find(".silence");
  const silenced = new Set(); // heads
  let characters = [], cells = [], unknown = [], weights, heads = Number(data.heads);
  let head, query, kept; // the query that was clicked stays when the pointer leaves
  let turn = 0, talking, text;

  const rows = () => characters.length * (characters.length + 1) / 2;
  const row = (h, t) => weights.subarray(h * rows() + t * (t + 1) / 2).subarray(0, t + 1);
  const name = (h) => `block ${Math.floor(h / heads)}, head ${h % heads}`;
  const share = (weight) => weight < 0.005 ? "<1 %" : `${Math.round(100 * weight)} %`;

  function say(sentence, after = 0) { // once the pointer rests
    clearTimeout(talking);
    talking = setTimeout(() => { status.textContent = sentence; }, after);
  }

  function told() { // who asks, and who answers
    const seen = row(head, query);
    const place = (t) => `${spoken(characters[t])} at position ${t}`;
    const most = [...seen.keys()].sort((a, b) => seen[b] - seen[a]).slice(0, 3)
      .filter((t, i) => !i || seen[t] >= 0.05);
    const given = most.map((t) => `${share(seen[t])} to ${place(t)}`).join(", ");
    const strange = not_known(characters.filter((_, t) => unknown[t]));
    return `${strange} In ${name(head)}, ${place(query)} asks. It gives ${given}.`.trim();
  }

  function show_row() { // of the query: arcs and shares
    const T = characters.length, seen = row(head, query);
    const order = [...seen.keys()].sort((a, b) => seen[a] - seen[b]);
    find(".looking svg").setAttribute("viewBox", `0 0 ${T} 1`);
    find(".looking svg").innerHTML = order.filter((t) => seen[t] >= 0.01)
      .map((t) => arc(query, t, T, seen[t])).join("");
    const labelled = new Set();
    for (const t of order.reverse()) { // the largest first; they must not touch
      if (seen[t] >= 0.05 && ![-2, -1, 1, 2].some((d) => labelled.has(t + d))) labelled.add(t);
    }
    cells.forEach((cell, t) => {
      cell.style.setProperty("--share", seen[t] ?? 0);
      cell.classList.toggle("asks", t === query);
      cell.classList.toggle("future", t > query);
      cell.querySelector("small").textContent = labelled.has(t) ? share(seen[t]) : "";
    });
    wall.style.setProperty("--row", query / T);
    wall.style.setProperty("--high", 1 / T);
    strip.setAttribute("aria-valuemax", T);
    strip.setAttribute("aria-valuenow", query + 1);
    strip.setAttribute("aria-valuetext", told());
  }

  function show_heads() { // a small map of each: queries down, keys across
    const T = characters.length, count = weights.length / rows();
    if (wall.children.length !== count || Number(wall.dataset.heads) !== heads) {
      wall.dataset.heads = heads;
      wall.style.setProperty("--heads", heads);
      wall.replaceChildren(...Array.from({ length: count }, (_, h) => element(`<button
        type="button" role="radio" aria-label="${name(h)}"><canvas></canvas></button>`)));
    }
    [...wall.children].forEach((button, h) => {
      const canvas = button.firstChild;
      canvas.width = canvas.height = T;
      const picture = new ImageData(T, T);
      for (let t = 0; t < T; t++) {
        const seen = row(h, t), most = Math.max(...seen);
        seen.forEach((weight, k) => {
          picture.data.set([32, 105, 176, 255 * weight / most], 4 * (t * T + k));
        });
      }
      canvas.getContext("2d").putImageData(picture, 0, 0);
      button.classList.toggle("silenced", silenced.has(h));
    });
  }

  function pick(h) {
    head = h;
    [...wall.children].forEach((button, i) => {
      button.setAttribute("aria-checked", i === h);
      button.tabIndex = i === h ? 0 : -1;
    });
    if (silence) {
      silence.firstChild.textContent = silenced.has(h) ? "Let it speak again " : "Silence this head ";
      silence.setAttribute("aria-pressed", silenced.has(h));
    }
    show_row();
  }

  function point(t) {
    if (t === query) return;
    query = t;
    show_row();
    say(told(), 400);
  }

  function put(next) { // a text, and its weights
    const before = characters.length;
    ({ weights, unknown = [], heads = heads } = next);
    characters = Array.from(text).slice(-unknown.length); // all, if nothing is unknown
    const last = kept === undefined || kept >= characters.length || kept === before - 1;
    query = kept = last ? characters.length - 1 : kept;
    cells = characters.map((character, t) => {
      const cell = element(`<span><code></code><i></i><small></small></span>`);
      cell.firstChild.textContent = visible(character);
      cell.classList.toggle("unknown", Boolean(unknown[t]));
      return cell;
    });
    find(".cells").replaceChildren(...cells);
    strip.style.setProperty("--count", characters.length);
    strip.classList.toggle("long", characters.length > 24);
    presets.forEach((button, i) => button.setAttribute("aria-pressed", texts[i] === text));
    show_heads();
    pick(Math.min(head, weights.length / rows() - 1));
    strip.scrollLeft = strip.scrollWidth;
  }

  async function read(next = text) { // what came with the page, or what the model sees
    const mine = ++turn, i = texts.indexOf(next), mute = [...silenced];
    let seen = { weights: came[i] }, whole;
    if (i < 0 || mute.length || brought()) {
      seen = await ask("attend", next, mute);
      whole = mute.length && await ask("attend", next, []);
      if (mine !== turn) return;
    }
    text = next;
    put(seen);
    say(told(), 400);
    if (!silence) return;
    const mean = ({ nats }) => (nats.reduce((a, b) => a + b, 0) / nats.length).toFixed(2);
    find(".cost").textContent = whole ? `The text costs ${mean(seen)} nats a character without `
      + `${mute.map(name).join("; ")}, and ${mean(whole)} with all heads.` : "";
  }

  async function model(button) { // is it there, or has it come?
    ask ||= await bring(button, status);
    if (!ask) return false;
    button.disabled = false;
    box.querySelectorAll(".doing small").forEach((size) => size.remove());
    own.maxLength = Math.min(LONGEST, (await ask("attend", text, [])).longest);
    return true;
  }

  // The pointer, the keys.

  const at = ({ clientX }) => {
    const { left, width } = find(".cells").getBoundingClientRect();
    const t = Math.floor((clientX - left) / width * characters.length);
    return Math.max(0, Math.min(t, characters.length - 1));
  };
  strip.addEventListener("pointermove", (event) => point(at(event)));
  strip.addEventListener("pointerdown", (event) => { kept = at(event); point(kept); });
  strip.addEventListener("pointerup", (event) => { kept = query; });
  strip.addEventListener("pointerleave", () => point(kept));

  function arrows(event, steps, n, of) { // -> the place to go to, if it is such a key
    const to = event.key === "Home" ? 0 : event.key === "End" ? of - 1
      : n + (steps[event.key] ?? 0);
    if (to === n || to < 0 || to >= of) return undefined;
    event.preventDefault();
    return to;
  }

  strip.addEventListener("keydown", (event) => {
    const to = arrows(event, { ArrowLeft: -1, ArrowRight: 1 }, query, characters.length);
    if (to === undefined) return;
    point(kept = to);
    cells[to].scrollIntoView({ block: "nearest", inline: "nearest" });
  });
  wall.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -heads, ArrowDown: heads };
    const to = arrows(event, steps, head, wall.children.length);
    if (to === undefined) return;
    pick(to);
    wall.children[to].focus();
    say(told(), 400);
  });
  wall.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (!button) return;
    pick([...wall.children].indexOf(button));
    say(told());
  });

  presets.forEach((button, i) => {
    button.firstChild.textContent = visible(texts[i]);
    button.addEventListener("click", () => read(own.value = texts[i]));
  });
  find(".own").addEventListener("click", async (event) => {
    if (!await model(event.currentTarget)) return;
    find(".own").hidden = true;
    own.value = text;
    own.parentNode.hidden = false;
    own.select();
    say(told());
  });
  own.addEventListener("input", () => own.value && read(own.value));
  silence?.addEventListener("click", async (event) => {
    if (!await model(event.currentTarget)) return;
    if (!silenced.delete(head)) silenced.add(head);
    read();
  });

  document.addEventListener("live:model", async () => {
    silenced.clear();
    await model(find(".own"));
    read();
  });
  if (data.follows) {
    document.addEventListener("live:text", async ({ detail }) => {
      ask ||= await load();
      if (detail) read(own.value = Array.from(detail).slice(-FOLLOWED).join(""));
    });
  }

  text = texts[0];
  head = 0;
  put({ weights: came[0] });
  query = kept = Number(data.asks ?? characters.length - 1);
  const answers = Number(data.answers ?? 0), all = [...wall.children].map((_, h) => h);
  pick(all.reduce((a, b) => row(b, query)[answers] > row(a, query)[answers] ? b : a));
  strip.focus({ preventScroll: true });
  if (brought()) model(find(".own")).then(() => read()); else say(told());
}

live.figure("attention", { calls: attending, html, begin,
  button: "Point at the characters yourself" });
})();
