/* A film of a recorded run: a handle on its curve of losses, and the text that it wrote at
   the step where the handle stands, with the skills that it shows; and a function that was held
   back, as it was read at the last recorded moment before. All is from the record. */
(() => { "use strict";
const { run, wait, curve } = live;
const PACE = 900; // milliseconds for a point

const SKILLS = { keyword: "a long keyword", blocks: "every block in order",
  function: "a whole function that Python accepts" };

const SKILL = ([name, words]) => `<li class="${name}"><span class="tick" aria-hidden="true">
  </span><span class="words">${words}</span><span class="bar"></span>
  <span class="count"></span></li>`;

const html = () => `<div class="film">
  <p class="hint">Drag the handle along the curve, or let the film run: the text is what the
    model wrote at that step. Ticks say what this text shows, and bars how many of all.</p>
  <div class="time" role="slider" tabindex="0" aria-label="The step"></div>
  <div class="still"><p class="where"></p><pre class="sheet" tabindex="0" aria-label="What it wrote"></pre></div>
  <ul class="skills">${Object.entries(SKILLS).map(SKILL).join("")}</ul>
  <div class="held-out"><p></p><pre class="sheet marks" tabindex="0"
    aria-label="A function that it never learned from"></pre></div>
  <div class="doing"><button type="button" class="write">Play</button>
    <button type="button" class="other">Another text</button></div>
</div>`;

function begin(box, data, status) {
  const find = (selector) => box.querySelector(selector);
  const { points, of, batches, validation, waypoints, held_out } = JSON.parse(data.record);
  const cells = Array.from(held_out.function, (character) => {
    const cell = document.createElement("span");
    cell.textContent = character;
    return cell;
  });
  const time = find(".time"), play = find(".write"), most = points[0].texts.length;
  let at = 0, text = 0, playing = null, place, talking;

  function draw() {
    place = curve(time, [{ points: batches, look: "batches" },
      { points: validation, look: "validation" }], waypoints);
    show();
  }

  function told() {
    const { step, loss, counts } = points[at];
    const skills = Object.entries(SKILLS).map(([name, words]) => `${counts[name]} ${words}`);
    return `Step ${step.toLocaleString("en")}, ${loss.toFixed(2)} nats. `
      + `Of ${of} texts show: ${skills.join(", ")}.`;
  }

  function read(step) { // the function, as the model of this step or the last one before did
    const moment = held_out.moments.findLast((moment) => moment.step <= step);
    const mean = moment.nats.reduce((a, b) => a + b) / moment.nats.length;
    find(".held-out p").textContent = "A function that it never learned from, read at step "
      + `${moment.step.toLocaleString("en")}: ${mean.toFixed(2)} nats a character`;
    cells.forEach((cell, i) => cell.style.setProperty("--nats", Math.min(moment.nats[i], 5)));
  }

  function show() {
    const { step, loss, texts, shown, counts } = points[at], x = place.x(step);
    find(".handle").innerHTML = `<path d="M${x} ${place.top}V${place.bottom}"/>
      <circle cx="${x}" cy="${place.y(loss)}" r="6"/>`;
    find(".where").textContent = `Step ${step.toLocaleString("en")}, ${loss.toFixed(2)} nats, `
      + `text ${text + 1} of ${most}`;
    find("pre").textContent = texts[text];
    for (const name of Object.keys(SKILLS)) {
      const row = find(`.${name}`);
      row.classList.toggle("shown", Boolean(shown[name][text]));
      row.style.setProperty("--share", counts[name] / of);
      row.querySelector(".count").textContent = `${counts[name]} of ${of}`;
      row.querySelector(".tick").textContent = shown[name][text] ? "✓" : "·";
    }
    read(step);
    time.setAttribute("aria-valuemin", 0);
    time.setAttribute("aria-valuemax", points.length - 1);
    time.setAttribute("aria-valuenow", at);
    time.setAttribute("aria-valuetext", told());
  }

  function go(to, quiet = false) {
    at = Math.max(0, Math.min(to, points.length - 1));
    show();
    clearTimeout(talking);
    if (!quiet) talking = setTimeout(() => { status.textContent = told(); }, 400);
  }

  function stop() {
    playing = null;
    play.textContent = "Play";
  }

  async function start() {
    run(stop);
    const mine = playing = {}; // {} is equal to itself only
    play.textContent = "Stop";
    if (at === points.length - 1) go(0, true);
    while (at < points.length - 1) {
      await wait(PACE);
      if (playing !== mine) return;
      go(at + 1, true);
    }
    stop();
    go(at);
  }

  function nearest({ clientX }) {
    const x = clientX - time.getBoundingClientRect().left;
    const far = points.map(({ step }) => Math.abs(place.x(step) - x));
    stop();
    go(far.indexOf(Math.min(...far)));
  }

  time.addEventListener("pointerdown", (event) => {
    time.setPointerCapture(event.pointerId);
    nearest(event);
  });
  time.addEventListener("pointermove", (event) => event.buttons && nearest(event));
  time.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1,
      Home: 0, End: points.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    stop();
    go(to);
  });
  play.addEventListener("click", () => {
    if (!playing) return start();
    stop();
    go(at);
  });
  find(".other").addEventListener("click", () => {
    text = (text + 1) % most;
    go(at);
  });
  find(".marks").append(...cells);
  new ResizeObserver(draw).observe(time);
  draw();
  return start();
}

live.figure("film", { html, begin, button: "Watch it learn" });
})();
