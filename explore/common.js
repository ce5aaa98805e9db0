// What the explorables share: a canvas, native inputs, and one sentence that says what one sees.
// Classic scripts, because a browser imports no module from a file; course_utils/explore.py appends
// the one line that makes them a module with the interface of anywidget.
"use strict";

// Each script adds its explorable, and each NAME.data.js the data that it needs.
const course = { data: {} };

// ------------------------------------------------------------------ numbers

course.bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
course.floats = (text) => new Float32Array(course.bytes(text).buffer);
course.clamp = (v, low, high) => Math.min(high, Math.max(low, v));
course.mix = (a, b, t) => a + (b - a) * t;
course.sum = (values) => values.reduce((a, b) => a + b, 0);
course.steps = (low, high, n) => Array.from({ length: n }, (_, i) => low + (high - low) * i / (n - 1));
course.shown = (v, digits = 2) => (Math.abs(v) < 0.5 * 10 ** -digits ? 0 : v).toFixed(digits).replace("-", "−");

// Uniform numbers from a seed (mulberry32), and standard normal ones (Box and Muller).
course.random = (seed) => () => {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
};
course.normals = (seed, n) => {
  const next = course.random(seed);
  return Array.from({ length: n }, () =>
    Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()));
};

// ------------------------------------------------------------------ colours

// Okabe and Ito; on dark ground lighter, so that lines keep their contrast. Which ground it is says
// the colour of the text around: so the figure follows the site, JupyterLab, VS Code, the system.
const ON_LIGHT = { blue: "#0072b2", orange: "#d55e00", green: "#00795a", pink: "#a8487f" };
const ON_DARK = { blue: "#6cbcf0", orange: "#ff9a52", green: "#3fd0a2", pink: "#eaa6cb" };

const numbersOf = (colour) => {
  const dot = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  dot.fillStyle = colour;
  dot.fillRect(0, 0, 1, 1);
  return [...dot.getImageData(0, 0, 1, 1).data];
};

course.palette = (el) => {
  const [r, g, b] = numbersOf(getComputedStyle(el).color);
  const dark = 0.3 * r + 0.6 * g + 0.1 * b > 140;
  const grey = (part) => `rgba(${r}, ${g}, ${b}, ${part})`;
  return { dark, ink: grey(1), soft: grey(0.75), line: grey(0.18), rgb: [r, g, b], ...(dark ? ON_DARK : ON_LIGHT) };
};

// ------------------------------------------------------------------ the frame of a figure

const make = (tag, parent, properties = {}, attributes = {}) => {
  const made = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent.append(made);
  return made;
};

// Fill an element with a figure. ``tell`` describes the canvas, ``ratio`` is height / width (of the
// width), ``set(figure)`` makes inputs and returns draw(g, width, height, colours), which returns the
// sentence. Whatever fails leaves one sentence in place of the figure.
course.figure = (el, { tell, ratio, data }, set) => {
  el.classList.add("explorable");
  const refuse = (fault) => {
    const reason = fault instanceof course.Refusal ? fault.message : "something in it failed.";
    el.replaceChildren();
    make("p", el, { textContent: `This figure cannot be shown: ${reason}` }, { role: "alert" });
    if (!(fault instanceof course.Refusal)) console.error(fault);
  };
  try {
    if (data && !course.data[data])
      throw new course.Refusal(`its data, ${data}.data.js, are missing or damaged. Remedy: fetch the course anew.`);
    begin(el, tell, ratio, set, refuse);
  } catch (fault) {
    const asData = data && !(fault instanceof course.Refusal);
    refuse(asData ? new course.Refusal(`its data, ${data}.data.js, are damaged. Remedy: fetch the course anew.`) : fault);
  }
};
course.Refusal = class extends Error {};

const begin = (el, tell, ratio, set, refuse) => {
  el.replaceChildren();
  const canvas = make("canvas", el, {}, { role: "img", "aria-label": tell });
  const g = canvas.getContext && canvas.getContext("2d");
  if (!g) throw new course.Refusal("this browser draws on no canvas. Remedy: open the page in another browser.");
  const inputs = make("div", el, { className: "inputs" });
  const said = make("p", el, { className: "said" }, { role: "status" });
  let pending = 0, later = 0, broken = false;

  const figure = {
    canvas,
    sentence: "",
    // Draw now; the sentence follows when the hand rests, so that it is read aloud once.
    draw() {
      cancelAnimationFrame(pending);
      pending = 0;
      const width = canvas.clientWidth, height = Math.round(ratio(width)), scale = window.devicePixelRatio || 1;
      if (!width || broken) return;
      canvas.style.height = `${height}px`;
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      g.setTransform(scale, 0, 0, scale, 0, 0);
      const size = parseFloat(getComputedStyle(el).fontSize) * (width < 500 ? 0.75 : 0.85);
      g.font = `${size}px ${getComputedStyle(el).fontFamily}`;
      g.lineJoin = "round";
      g.unit = Math.max(1, size / 14);  // of widths of lines, on a wall
      const colours = course.palette(el);
      el.style.setProperty("--accent", colours.blue);
      try {
        figure.sentence = paint(g, width, height, { ...colours, size });
      } catch (fault) {
        broken = true;
        refuse(fault);
      }
      clearTimeout(later);
      later = setTimeout(() => { said.textContent = figure.sentence; }, said.textContent ? 300 : 0);
    },
    redraw() {
      pending ||= requestAnimationFrame(figure.draw);
    },
    // A part of the inputs that is folded away.
    folded: (title) => {
      const part = make("details", inputs);
      make("summary", part, { textContent: title });
      return make("div", part, { className: "inputs" });
    },
    // A slider; ``words`` says its value in words.
    range(label, { min, max, step, value, words, into = inputs }, change) {
      const frame = make("label", into);
      make("span", frame, { textContent: label });
      const input = make("input", frame, { type: "range", min, max, step, value });
      const output = make("span", frame, { className: "value" }, { "aria-hidden": "true" });
      const show = () => {
        output.textContent = words(+input.value);
        input.setAttribute("aria-valuetext", output.textContent);
      };
      input.addEventListener("input", () => { show(); change(+input.value); figure.redraw(); });
      show();
      return {
        input,
        get value() { return +input.value; },
        set(v) { input.value = v; show(); },
        limit(most) { input.max = most; show(); },
      };
    },
    choice(label, options, value, change, into = inputs) {
      const frame = make("label", into);
      make("span", frame, { textContent: label });
      const select = make("select", frame);
      options.forEach((text, i) => make("option", select, { value: i, textContent: text }));
      select.value = value;
      select.addEventListener("change", () => { change(+select.value); figure.redraw(); });
      return { set(v) { select.value = v; } };
    },
    buttons(table, into = inputs) {
      const row = make("div", into, { className: "buttons" });
      for (const [label, action] of Object.entries(table))
        make("button", row, { type: "button", textContent: label })
          .addEventListener("click", () => { action(); figure.redraw(); });
    },
    // Over some milliseconds step(t) with t up to 1; at once where motion is not wanted.
    animate(milliseconds, step) {
      cancelAnimationFrame(figure.running);
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      const from = performance.now();
      const tick = () => {
        const t = still ? 1 : Math.min(1, (performance.now() - from) / milliseconds);
        step(t);
        figure.draw();
        if (t < 1 && canvas.isConnected) figure.running = requestAnimationFrame(tick);
      };
      tick();
    },
    // Mouse, pen and finger: hit(p) says what lies there (or null), move(what, p) drags it, and
    // end(what, p, moved) lets it go. Where nothing is hit, a finger scrolls the page.
    pointer({ hit, move, end = () => {} }) {
      let held = null, from = null, moved = false;
      const place = (e) => {
        const box = canvas.getBoundingClientRect();
        return { x: e.clientX - box.left, y: e.clientY - box.top, touch: e.pointerType === "touch" };
      };
      canvas.addEventListener("touchstart", (e) => {
        const [touch] = e.touches;
        if (e.touches.length === 1 && hit({ ...place(touch), touch: true }, true) !== null) e.preventDefault();
      }, { passive: false });
      canvas.addEventListener("pointerdown", (e) => {
        from = place(e);
        if (e.button || (held = hit(from)) === null) return;
        moved = false;
        canvas.setPointerCapture(e.pointerId);
      });
      canvas.addEventListener("pointermove", (e) => {
        const p = place(e);
        if (held === null) {
          canvas.style.cursor = e.buttons || hit(p, true) === null ? "" : "grab";
          return;
        }
        moved ||= Math.hypot(p.x - from.x, p.y - from.y) > 4;
        move(held, p);
        figure.redraw();
      });
      for (const name of ["pointerup", "pointercancel"])
        canvas.addEventListener(name, (e) => {
          if (held === null) return;
          end(held, place(e), moved);
          held = null;
          figure.redraw();
        });
    },
  };

  const paint = set(figure);
  el.figure = figure;
  new ResizeObserver(figure.redraw).observe(el);
  const themes = new MutationObserver(figure.redraw);
  for (const part of [document.documentElement, document.body])
    themes.observe(part, { attributes: true, attributeFilter: ["class", "data-theme", "data-jp-theme-light"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", figure.redraw);
  figure.draw();
};

// ------------------------------------------------------------------ pieces of a drawing

course.write = (g, text, x, y, { colour, align = "left", base = "alphabetic", bold = false } = {}) => {
  g.save();
  if (bold) g.font = `bold ${g.font}`;
  if (colour) g.fillStyle = colour;
  g.textAlign = align;
  g.textBaseline = base;
  g.fillText(text, x, y);
  g.restore();
};

course.line = (g, points, colour, width = 2, dash = []) => {
  g.beginPath();
  points.forEach(([x, y], i) => (i ? g.lineTo(x, y) : g.moveTo(x, y)));
  g.strokeStyle = colour;
  g.lineWidth = width * g.unit;
  g.setLineDash(dash);
  g.stroke();
  g.setLineDash([]);
};

course.band = (g, upper, lower, colour, alpha) => {
  g.beginPath();
  [...upper, ...lower.toReversed()].forEach(([x, y], i) => (i ? g.lineTo(x, y) : g.moveTo(x, y)));
  g.globalAlpha = alpha;
  g.fillStyle = colour;
  g.fill();
  g.globalAlpha = 1;
};

course.dot = (g, x, y, radius, colour, ring = null) => {
  g.beginPath();
  g.arc(x, y, radius * g.unit, 0, 2 * Math.PI);
  g.fillStyle = colour;
  g.fill();
  if (!ring) return;
  g.strokeStyle = ring;
  g.lineWidth = 2 * g.unit;
  g.stroke();
};

// Axes in a box {left, top, width, height}; returns what maps values to places, and back.
course.axes = (g, c, box, { x, y, xTicks = [], yTicks = [], xLabel = "", yLabel = "" }) => {
  const at = {
    box,
    x: (v) => box.left + box.width * (v - x[0]) / (x[1] - x[0]),
    y: (v) => box.top + box.height * (y[1] - v) / (y[1] - y[0]),
    toX: (p) => x[0] + (x[1] - x[0]) * (p - box.left) / box.width,
    toY: (p) => y[1] - (y[1] - y[0]) * (p - box.top) / box.height,
    inside: (p) => p.x >= box.left && p.x <= box.left + box.width && p.y >= box.top && p.y <= box.top + box.height,
    clip(inner) {
      g.save();
      g.beginPath();
      g.rect(box.left, box.top, box.width, box.height);
      g.clip();
      inner();
      g.restore();
    },
  };
  const bottom = box.top + box.height;
  const name = (v) => String(v).replace("-", "−");
  for (const v of xTicks) {
    course.line(g, [[at.x(v), box.top], [at.x(v), bottom]], c.line, 1);
    course.write(g, name(v), at.x(v), bottom + 1.2 * c.size, { colour: c.soft, align: "center" });
  }
  for (const v of yTicks) {
    course.line(g, [[box.left, at.y(v)], [box.left + box.width, at.y(v)]], c.line, 1);
    course.write(g, name(v), box.left - 0.4 * c.size, at.y(v), { colour: c.soft, align: "right", base: "middle" });
  }
  if (xLabel) course.write(g, xLabel, box.left + box.width, bottom + 2.5 * c.size, { colour: c.ink, align: "right" });
  if (yLabel) course.write(g, yLabel, box.left, box.top - 0.6 * c.size, { colour: c.ink });
  return at;
};

// ------------------------------------------------------------------ a page of explorables

// Every element with data-explore="NAME" gets its figure; its static picture goes.
course.mount = () => {
  const model = { get: () => undefined };
  for (const el of document.querySelectorAll("[data-explore]"))
    course[el.dataset.explore]?.render({ model, el });
};
