/* A run of the reader's own: its checkpoint takes the place of the book's model in all
   figures of the page, and its log becomes a curve beside that of a recorded run. The files
   are read in the page, and go nowhere. */
(() => { "use strict";
const { curve, element, replace } = live;
const LARGEST = 600e6; // bytes of a file; a model of 40 million numbers has 160 million
const BINS = 25; // means for each factor of ten of steps, as in curve.py

const BOX = `<div class="live own">
  <label class="choose">Choose files of your run <input type="file" multiple></label>
  <p>or drop them anywhere on this page: <code>best.safetensors</code>,
    <code>metrics.jsonl</code>. They are read here, and go nowhere.</p>
  <p class="status" role="status"></p>
  <p class="back" hidden><button type="button">Back to the book’s model</button></p>
</div>`;

function check(condition, message) {
  if (!condition) throw new Error(message);
}

function read_log(text) { // -> losses of batches and of validation, by step
  const batches = new Map(), validation = new Map();
  text.split("\n").slice(0, -1).forEach((line, i) => { // the last may be half written
    let record;
    try { record = JSON.parse(line); } catch { record = null; }
    check(Number.isInteger(record?.step), `line ${i + 1} is no record of a step: choose the `
      + "metrics.jsonl of a run");
    for (const [name, losses] of [["loss", batches], ["val_loss", validation]]) {
      if (Number.isFinite(record[name])) losses.set(record.step, record[name]);
    }
  });
  check(batches.size, "it holds no loss of a step yet: choose the metrics.jsonl of a run that "
    + "has begun");
  return [batches, validation];
}

function smooth(losses) { // means over steps that are near each other on a log axis
  const bins = new Map(), mean = (numbers) => numbers.reduce((a, b) => a + b) / numbers.length;
  for (const [step, loss] of losses) {
    const bin = Math.floor(BINS * Math.log10(step));
    if (!bins.has(bin)) bins.set(bin, []);
    bins.get(bin).push([Math.log(step), loss]);
  }
  return [...bins.values()].map((near) => [
    Math.exp(mean(near.map(([log]) => log))), mean(near.map(([, loss]) => loss))]);
}

function begin(marker) {
  const book = JSON.parse(marker.dataset.record), box = element(BOX);
  const figure = document.getElementById(marker.dataset.instead);
  const input = box.querySelector("input"), status = box.querySelector("[role=status]");
  const back = box.querySelector(".back");
  const chart = element(`<div class="live"><p class="hint"></p><div></div></div>`);
  let draw = () => {};

  const say = (sentence) => { status.textContent = sentence; };

  async function take_model(file) {
    say(`Reading ${file.name} …`);
    const { config, step } = await replace(await file.arrayBuffer());
    back.hidden = false;
    return `All figures have your model now, as it was after step ${step.toLocaleString("en")}: `
      + `${config.n_layers} blocks of ${config.n_heads} heads, and a context of `
      + `${config.context_length} characters.`;
  }

  async function take_log(file) {
    const [batches, validation] = read_log(await file.text());
    const lines = [{ points: book.batches, look: "beside" },
      { points: smooth(batches), look: "batches" },
      { points: [...validation], look: "validation" }];
    const last = [...validation.values()].at(-1);
    const told = `Your run, ${Math.max(...batches.keys()).toLocaleString("en")} steps: blue the `
      + "loss of its batches, dots that on its validation split"
      + `${last === undefined ? "" : `, ${last.toFixed(3)} nats at the end`}. Grey is the book’s.`;
    chart.firstChild.textContent = `${told} The waypoints are counted in the book’s corpus.`;
    figure.insertBefore(chart, figure.querySelector("figcaption"));
    figure.classList.add("is-live");
    draw = () => curve(chart.lastChild, lines, book.waypoints);
    draw();
    return told;
  }

  async function take(files) {
    const told = [];
    for (const file of files) {
      try {
        check(file.size <= LARGEST, `it has over ${LARGEST / 1e6} MB, too much for a page: use `
          + "minigpt.py generate");
        const log = await file.slice(0, 1).text() === "{";
        told.push(await (log ? take_log : take_model)(file));
      } catch ({ message }) {
        told.push(`${file.name}: ${message}.`);
      }
    }
    say(told.join(" "));
  }

  marker.after(box);
  input.addEventListener("change", async () => {
    await take([...input.files]);
    input.value = ""; // the same file can be chosen again
  });
  const carries = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    box.classList.add("awaits");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) box.classList.remove("awaits");
  });
  document.addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    box.classList.remove("awaits");
    box.scrollIntoView({ block: "nearest" });
    take([...event.dataTransfer.files]);
  });
  back.firstChild.addEventListener("click", async () => {
    try {
      await replace();
      back.hidden = true;
      say("All figures have the book’s model again.");
    } catch ({ message }) {
      say(message);
    }
  });
  new ResizeObserver(() => draw()).observe(figure);
}

document.querySelectorAll("[data-live=own]").forEach(begin);
})();
