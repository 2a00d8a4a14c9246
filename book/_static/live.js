/* What the live figures of a page share: one worker with the model, the button that brings
   a figure to life, and how characters and shares are told. Each stands in for a static
   figure, which stays without JavaScript and on paper. A marker names its kind, the static
   figure, and what it begins with; the file of the kind, `live_KIND.js`, calls `figure`.
   The model is minigpt.js; its weights come when a reader asks for them. */
const live = (() => { "use strict";
const WEIGHTS = new URL("weights.js", document.currentScript.src).href;
const SIZE = "loads the model, 4.8 MB";

/* --- In the worker: what the calls of the kinds have in common ---------------------- */

function tools(saved) { // it travels as text, and sees nothing of this file
  const PAD = 0, EOS = 1, UNK = 2;

  function known(character) {
    try { return saved().tokenizer.encode(character)[0]; } catch { return UNK; }
  }

  function drawn_from(logits, { may_end }) { // as `generate` does
    const never = may_end ? [PAD, UNK] : [PAD, UNK, EOS];
    return logits.map((z, id) => never.includes(id) ? -Infinity : z);
  }

  return { PAD, EOS, UNK, drawn_from,
    before: () => saved().before.length ? saved().before : [EOS],
    encode: (text) => Array.from(text, known),
    softmax: (logits) => minigpt.distribution(logits, { temperature: 1 }) };
}

const more = [`() => ({})`]; // calls of the kinds on this page, as texts
const all = () => `(saved) => { const tools = (${tools})(saved);
  return Object.assign({}, ...[${more}].map((calls) => calls(saved, tools))); }`;

/* --- In the page -------------------------------------------------------------------- */

let worker, loading, own = false; // is the model one that the reader brought?
const ask = (...call) => (worker ??= minigpt.start_worker(all()))(...call);

function load() { // -> ask, once the worker, one for all figures of a page, has a model
  async function begin() {
    const text = await minigpt.fetch_weights(WEIGHTS).catch(() => {
      throw new Error("The model did not arrive. Look whether you are online, and press the "
        + "button again. In a copy of the book, weights.js must lie in the folder _static.");
    });
    await ask("load", text);
    return ask;
  }
  return loading ??= begin().catch((error) => { loading = undefined; throw error; });
}

async function replace(bytes) { // the model by a checkpoint's, or without one by the book's
  stop();
  const before = loading;
  if (!bytes) loading = undefined;
  const told = bytes ? await ask("load", bytes)
    : await load().catch((error) => { loading = before; throw error; });
  if (bytes) loading = Promise.resolve(ask);
  own = Boolean(bytes);
  document.dispatchEvent(new Event("live:model"));
  invited.splice(0).forEach((open) => open());
  return told;
}

async function bring(button, status) { // -> ask; or nothing, and the status says why
  button.disabled = true;
  status.textContent = "The model is on its way …";
  try {
    return await load();
  } catch ({ message }) {
    status.textContent = message;
  }
  button.disabled = false;
  button.focus();
}

let stop = () => {};
function run(mine) { // never more than one figure runs: this one can be stopped by `mine`
  stop();
  stop = mine;
}

const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵");
const percent = (share) => share < 0.0005 ? "<0.1 %"
  : `${(100 * share).toFixed(share < 0.00995 ? 1 : 0)} %`;
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

function spoken(character) { // a character in a sentence
  const names = { "": "the end", " ": "a space", "\n": "a new line", "\t": "a tab" };
  return names[character] ?? `“${character}”`;
}

function code_point(character) {
  const number = character.codePointAt().toString(16).toUpperCase().padStart(4, "0");
  return `${spoken(character)} (U+${number})`;
}

function not_known(characters) { // a sentence about those, if there are any
  const names = [...new Set(characters.map(code_point))];
  return names.length ? `The model does not know ${names.slice(0, 3).join(", ")}`
    + `${names.length > 3 ? " and others" : ""}: it reads a gap there.` : "";
}

function element(html) {
  const template = document.createElement("template");
  template.innerHTML = html.trim();
  return template.content.firstChild;
}

/* --- Where a page has a marker ------------------------------------------------------ */

const invited = []; // figures that nobody has touched yet

function invite(marker, { button: label, needs_model, html, begin }) {
  const figure = document.getElementById(marker.dataset.instead);
  if (!figure) return;
  const box = element(`<div class="live"><p class="invite"><button type="button">${label}
    </button> ${needs_model ? `<span>${SIZE}</span>` : ""}</p>
    <p class="status" role="status"></p>
    <p class="back" hidden><button type="button">Show the drawing</button></p></div>`);
  figure.insertBefore(box, figure.querySelector("figcaption"));
  const [button, status, back] = box.querySelectorAll(":scope > p button, [role=status]");
  const open = async () => {
    const ask = needs_model && await bring(button, status);
    if (needs_model && !ask) return;
    const content = element(html(marker.dataset));
    if (!box.querySelector(".invite")) return; // it has been opened meanwhile
    box.querySelector(".invite").remove();
    box.prepend(content);
    figure.classList.add("is-live");
    back.parentNode.hidden = false;
    back.addEventListener("click", () => {
      stop();
      const lives = figure.classList.toggle("is-live");
      content.hidden = status.hidden = !lives;
      back.textContent = lives ? "Show the drawing" : "Back to your own hands";
    });
    begin(content, marker.dataset, status, ask);
  };
  button.addEventListener("click", open);
  invited.push(() => figure.matches(".is-live") || open());
}

function figure(kind, { calls, ...how }) { // how each of this kind comes to life
  if (calls) more.push(`${calls}`);
  document.querySelectorAll(`[data-live=${kind}]`).forEach(
    (marker) => invite(marker, how));
}

return { figure, bring, load, replace, brought: () => own, run, SIZE, visible, percent, wait,
  spoken, not_known, element };
})();
