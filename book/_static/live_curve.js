/* A curve of losses over steps on a log axis, with waypoints, for the figures of a run. */
live.curve = (() => { "use strict";
const HEIGHT = 210, LEFT = 30, RIGHT = 10, TOP = 8, BOTTOM = 22, FIRST = 10; // pixels; a step

function curve(box, lines, waypoints) { // -> where a step and a loss are, in pixels
  const width = Math.max(box.clientWidth, 240);
  const all = lines.flatMap(({ points }) => points);
  const last = Math.max(100, ...all.map(([step]) => step));
  const most = Math.ceil(Math.max(...all.map(([, loss]) => loss), ...Object.values(waypoints)));
  const x = (step) => LEFT + (width - LEFT - RIGHT)
    * Math.log(Math.max(step, FIRST) / FIRST) / Math.log(last / FIRST);
  const y = (loss) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - loss / most);
  const at = ([step, loss]) => `${x(step).toFixed(1)} ${y(loss).toFixed(1)}`;
  const seen = (points) => points.filter(([step]) => step >= FIRST);

  const steps = [100, 1000, 10000, 100000].filter((step) => step <= last);
  const marks = [`<text class="step" x="${LEFT}" y="${HEIGHT - 5}">step 0</text>
    <text x="${LEFT + 4}" y="${TOP + 8}">nats</text>`,
    ...steps.map((step) => `<path class="grid" d="M${x(step)} ${TOP}V${y(0)}"/>
      <text class="step" x="${x(step)}" y="${HEIGHT - 5}">${step.toLocaleString("en")}</text>`),
    ...Array.from({ length: most + 1 }, (_, nats) =>
      `<text class="nats" x="${LEFT - 8}" y="${y(nats) + 4}">${nats}</text>`),
    ...Object.entries(waypoints).map(([name, loss]) =>
      `<path class="waypoint" d="M${LEFT} ${y(loss)}H${width - RIGHT}"/>
      <text class="name" x="${width - RIGHT}" y="${y(loss) - 4}">${name}</text>`)];
  const drawn = lines.map(({ points, look }) => look === "validation"
    ? points.map((point) => `<path class="dot" d="M${at(point)}h0"/>`).join("")
    : `<path class="${look}" d="M${seen(points).map(at).join("L")}"/>`);
  box.innerHTML = `<svg class="curve" width="${width}" height="${HEIGHT}" aria-hidden="true">
    <path class="axis" d="M${LEFT} ${TOP}V${y(0)}H${width - RIGHT}"/>${marks.join("")}
    ${drawn.join("")}<g class="handle"></g></svg>`;
  return { x, y, top: TOP, bottom: y(0) };
}

return curve;
})();
