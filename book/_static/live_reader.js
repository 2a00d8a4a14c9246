/* A text that the model reads while one types: a bar below each character, as long as the
   model was surprised by it, and what may come next. It can take its guess, and write. */
(() => { "use strict";
const { run, visible, percent, wait, spoken, not_known, element } = live;
const LONGEST = 1500, AT_LEAST = 200, AT_ONCE = 400; // characters
const PACE = 33; // milliseconds for a character at least, so that the bars can be seen
const PAUSE = 500; // milliseconds without a change before it is said what is seen

/* --- In the worker ------------------------------------------------------------------ */

function reading(saved, tools) { // it travels as text
  const { PAD, UNK, before, encode, softmax, drawn_from } = tools;
  let ids = [], nats = [], after = []; // what is read; after[n]: logits after n + 1
  let cache, start, random, model_read;

  function forget(n) { // what was read behind the first n ids
    ids.length = Math.min(ids.length, n);
    after.length = nats.length = ids.length;
    if (cache) cache.length = Math.max(0, Math.min(cache.length, n - start));
  }

  function read_one(id) {
    const { model } = saved(), n = ids.length;
    nats.push(n ? -Math.log(softmax(after[n - 1])[id]) : 0);
    ids.push(id);
    const begin = minigpt.window_start(n + 1, model.config.context_length);
    if (begin !== start) [cache, start] = [minigpt.KVCache(model.config), begin];
    let logits;
    while (start + cache.length < ids.length) {
      logits = model.forward(ids[start + cache.length], cache);
    }
    after.push(logits);
  }

  return {
    read(text, caret, settings, guesses, most) { // at most so many characters more
      const { model, tokenizer } = saved(), given = before();
      const wanted = [...given, ...encode(text)];
      if (model !== model_read) [ids, start, model_read] = [[], undefined, model];
      let same = 0;
      while (same < ids.length && ids[same] === wanted[same]) same++;
      forget(same);
      for (const id of wanted.slice(same, same + most)) read_one(id);
      const logits = after[given.length + caret - 1];
      const learned = logits && softmax(logits);
      const drawn = logits && minigpt.distribution(
        drawn_from(logits, settings), settings);
      const ranked = logits && [...logits.keys()].filter((id) => id !== PAD && id !== UNK)
        .sort((a, b) => logits[b] - logits[a]).slice(0, guesses);
      return {
        done: ids.length === wanted.length,
        known: model.config.vocab_size - 2, // ids that can be written
        nats: nats.slice(given.length),
        unknown: wanted.slice(given.length).map((id) => id === UNK),
        next: ranked && ranked.map((id) => ({
          character: tokenizer.decode([id]), learned: learned[id], drawn: drawn[id] })),
      };
    },
    seed(number) { random = minigpt.generator(number); },
    draw: (settings) => saved().tokenizer.decode(
      [minigpt.choose(drawn_from(after.at(-1), settings), settings, random)]),
  };
}

/* --- In the page -------------------------------------------------------------------- */

const GUESS = `<li><button type="button" class="guess">
  <code></code><span class="bar"></span><span class="share"></span></button></li>`;

const HINT = `<p class="hint">Grey is what the model learned, colour what the knobs make of it.
  Let it write; then put the caret behind any character, and take another way from there. What
  followed is cut off, and Undo brings it back.</p>`;

const html = ({ full }) => `<div class="reader${full ? " full" : ""}">
  ${full ? HINT : ""}
  <div class="paper">
    <pre class="marks" aria-hidden="true"></pre>
    <textarea maxlength="${LONGEST}" spellcheck="false" autocapitalize="off"
      autocomplete="off" autocorrect="off"
      aria-label="A text that the model reads while you type"></textarea>
  </div>
  <div class="next">
    <p class="after">After <code></code> <span></span></p>
    <ol aria-label="The likeliest next characters">${GUESS.repeat(full ? 14 : 6)}</ol>
    <button type="button" class="take">Take its guess <kbd>Ctrl →</kbd></button>
  </div>
  <div class="doing">
    <button type="button" class="write">Let it write</button>
    <button type="button" class="undo" disabled>Undo</button>
    <details><summary>How it chooses</summary><div class="knobs">
      <label>temperature <output></output>
        <input name="temperature" type="range" min="0" max="3" step="0.05" value="0.8"></label>
      <label>top-k <output></output>
        <input name="top_k" type="range" min="1" max="97" value="97"></label>
      <label>top-p <output></output>
        <input name="top_p" type="range" min="0.05" max="1" step="0.05" value="1"></label>
      <label>seed <input class="field" name="seed" inputmode="numeric" autocomplete="off" value="7"></label>
    </div></details>
  </div>
</div>`;

function begin(box, { text: first, full }, status, ask) {
  const find = (selector) => box.querySelector(selector);
  const text = find("textarea"), marks = find(".marks"), knobs = find("details");
  const rows = [...box.querySelectorAll(".next li")], write_button = find(".write");
  const field = (name) => find(`[name=${name}]`);
  const end = document.createTextNode("\u200b"); // so that an empty last line has a height
  const past = []; // texts before what the model did to them
  let characters = [], cells = [], shown = []; // of the text: what, where, and its nats
  let next = [], turn = 0, place = -1, fresh = false, looking = null;
  let seed = field("seed").value, writing = null, written = 0, pausing;

  // What the reader has set. Nothing else can be entered.

  function settings() {
    const top_k = Number(field("top_k").value);
    return { temperature: Number(field("temperature").value),
      top_k: top_k === Number(field("top_k").max) ? 0 : top_k,
      top_p: Number(field("top_p").value),
      may_end: !writing || written >= AT_LEAST };
  }

  function tell_settings() {
    const { temperature, top_k, top_p } = settings();
    const told = { temperature: temperature || "0: always the likeliest",
      top_k: top_k || "all", top_p: top_p < 1 ? top_p : "1: all" };
    for (const [name, value] of Object.entries(told)) {
      field(name).previousElementSibling.textContent = value;
      field(name).setAttribute("aria-valuetext", value);
    }
  }

  function check_seed() {
    const { value } = field("seed");
    if (/^\d*$/.test(value) && Number(value) < 2 ** 32) seed = value;
    else field("seed").value = seed;
  }

  // The text, a bar below each character, and what may come at the caret.

  const caret = () => Array.from(text.value.slice(0, text.selectionStart)).length;

  function lay_out() { // a cell for each character; those that are the same stay
    const before = characters;
    characters = Array.from(text.value);
    let same = 0;
    while (same < before.length && before[same] === characters[same]) same++;
    for (const cell of cells.splice(same)) cell.remove();
    shown.length = same;
    for (const character of characters.slice(same)) {
      const cell = document.createElement("span");
      cell.textContent = character;
      cells.push(cell);
    }
    marks.append(...cells.slice(same), end);
    marks.querySelector(".here")?.classList.remove("here");
    cells[place]?.classList.add("here");
  }

  function fit(known) { // top-k goes as far as there are characters
    const all = field("top_k").value === field("top_k").max;
    field("top_k").max = known;
    if (all) field("top_k").value = known;
    tell_settings();
  }

  function show({ nats, unknown, next: guesses, known }) {
    if (known !== Number(field("top_k").max)) fit(known);
    cells.forEach((cell, i) => {
      if (nats[i] === undefined || shown[i] === nats[i]) return;
      shown[i] = nats[i];
      cell.classList.toggle("unknown", unknown[i]);
      cell.style.setProperty("--nats", Math.min(nats[i], 5));
    });
    if (!guesses) return;
    next = guesses;
    const shaped = writing || knobs.open;
    const context = characters.slice(Math.max(0, place - 7), place).join("");
    find(".after code").textContent = visible(context) || "<eos>";
    find(".after span").textContent = shaped ? "it draws from" : "it expects";
    rows.forEach((row, i) => {
      row.hidden = i >= next.length;
      if (row.hidden) return;
      const { character, learned, drawn } = next[i], share = shaped ? drawn : learned;
      const [button, code, bar, number] = row.querySelectorAll("*");
      code.textContent = visible(character) || "end";
      bar.style.setProperty("--learned", learned);
      bar.style.setProperty("--share", share);
      number.textContent = share ? percent(share) : "out";
      button.classList.toggle("out", !share);
      button.setAttribute("aria-label",
        `${spoken(character)}, ${share ? percent(share) : "left out"}`);
    });
  }

  function say(sentence) {
    clearTimeout(pausing);
    status.textContent = sentence;
  }

  function pass_on() { // what stands before the caret, to a figure that follows
    const detail = characters.slice(0, place).join("");
    document.dispatchEvent(new CustomEvent("live:text", { detail }));
  }

  function say_what_it_sees() {
    pass_on();
    const strange = characters.filter((_, i) => cells[i].classList.contains("unknown"));
    if (strange.length) return say(not_known(strange));
    const last = characters[place - 1], chance = percent(Math.exp(-shown[place - 1]));
    const told = next.slice(0, 3).map(({ character, learned }) =>
      `${spoken(character)} ${percent(learned)}`).join(", ");
    say((last ? `It gave ${spoken(last)} a chance of ${chance}. ` : "") + `Next: ${told}.`);
  }

  async function read() { // in pieces, so that what is typed meanwhile is not kept waiting
    while (!fresh) {
      const asked = turn;
      const seen = await ask("read", text.value, place, settings(), rows.length, 8);
      if (asked !== turn) continue;
      show(seen);
      fresh = seen.done;
    }
    looking = null;
  }

  function look() { // promises that the text, as it is then, has been read
    [turn, fresh, place] = [turn + 1, false, caret()];
    lay_out();
    return looking ??= read();
  }

  async function look_and_tell() {
    clearTimeout(pausing);
    await look();
    clearTimeout(pausing);
    if (!writing) pausing = setTimeout(say_what_it_sees, PAUSE);
  }

  // What the model adds goes to the caret; what stood behind it is cut off.

  function put(character) {
    text.value = text.value.slice(0, text.selectionStart) + character;
    text.setSelectionRange(text.value.length, text.value.length);
    find(".paper").scrollTop = find(".paper").scrollHeight;
  }

  function remember() {
    past.push([text.value, text.selectionStart]);
    find(".undo").disabled = false;
  }

  function take(character) {
    stop();
    if (!character) return say("Here the model would end its text.");
    if (text.selectionStart >= LONGEST) return say(`${LONGEST} characters are the most.`);
    remember();
    put(character);
    look_and_tell();
  }

  async function take_guess() { // that of the text as it is now
    while (!fresh && !writing) await looking;
    if (fresh) take(next[0].character);
  }

  function undo() {
    stop();
    const [before, at] = past.pop();
    find(".undo").disabled = !past.length;
    if (!past.length && document.activeElement === find(".undo")) text.focus();
    text.value = before;
    text.setSelectionRange(at, at);
    look_and_tell();
  }

  function stop() {
    writing = null;
    write_button.textContent = "Let it write";
  }

  async function write() {
    run(stop);
    remember();
    put("");
    const mine = writing = {}; // {} is equal to itself only
    write_button.textContent = "Stop";
    say(`It writes, with seed ${Number(seed)}.`);
    let ended = false;
    written = 0;
    await ask("seed", Number(seed));
    while (!ended && written < AT_ONCE && text.value.length < LONGEST) {
      const began = performance.now();
      await look();
      await wait(PACE - (performance.now() - began));
      if (writing !== mine) break;
      const character = await ask("draw", settings());
      if (writing !== mine) break;
      put(character);
      ended = character === "";
      written += character.length;
    }
    if (writing && writing !== mine) return; // begun anew
    stop();
    await look();
    pass_on();
    say(`It ${ended ? "ended its text after" : "wrote"} ${written} characters, with seed `
      + `${Number(seed)}.`);
  }

  text.value = first;
  text.setSelectionRange(first.length, first.length);
  knobs.open = Boolean(full);
  tell_settings();
  text.addEventListener("input", () => { stop(); look_and_tell(); });
  for (const event of ["keyup", "pointerup", "selectionchange"]) {
    text.addEventListener(event, () => {
      if (!writing && caret() !== place) look_and_tell();
    });
  }
  text.addEventListener("keydown", (event) => {
    const at_end = text.selectionStart === text.value.length;
    if (event.key !== "ArrowRight" || !(event.ctrlKey || event.altKey) || !at_end) return;
    event.preventDefault();
    take_guess();
  });
  document.addEventListener("live:model", look_and_tell);
  find(".take").addEventListener("click", take_guess);
  rows.forEach((row, i) => row.addEventListener("click", () => take(next[i].character)));
  find(".undo").addEventListener("click", undo);
  write_button.addEventListener("click", () => writing ? stop() : write());
  knobs.addEventListener("toggle", () => writing || look_and_tell());
  knobs.addEventListener("input", (event) => {
    if (event.target.name === "seed") return check_seed();
    tell_settings();
    if (!writing) look_and_tell();
  });
  field("seed").addEventListener("change", () => { field("seed").value = Number(seed); });
  text.focus({ preventScroll: true });
  return look_and_tell();
}

live.figure("reader", { calls: reading, needs_model: true, html, begin,
  button: "Try it with your own text" });
})();
