// Bend a Gaussian: the RealNVP of section 4 of the notebook on flows, layer by layer.
"use strict";

{
  const LINES = course.steps(-2.5, 2.5, 11), CLOUD = 500, TAIL = -Math.log(2 * Math.PI);

  const load = (data) => {
    const w = Object.fromEntries(Object.entries(data.weights).map(([name, text]) => [name, course.floats(text)]));
    const h = data.hidden, n = data.flip.length;
    const sizes = { "0.weight": h, "0.bias": h, "2.weight": h * h, "2.bias": h, "4.weight": 2 * h, "4.bias": 2 };
    for (const [name, size] of Object.entries(sizes)) if (w[name]?.length !== n * size) throw new Error(name);
    const [shift, scale] = [data.shift.map(Number), data.scale.map(Number)];
    if (![...shift, ...scale].every(Number.isFinite)) throw new Error("scale");
    return { w, h, n, flip: data.flip, shift, scale, one: new Float64Array(h), two: new Float64Array(h) };
  };

  // Log scale and shift that layer i takes from the coordinate that it keeps.
  const steer = ({ w, h, one, two }, i, kept) => {
    const v = 4 * Math.tanh(kept / 4), a = i * h;
    for (let j = 0; j < h; j++) {
      const u = w["0.weight"][a + j] * v + w["0.bias"][a + j];
      one[j] = u / (1 + Math.exp(-u));
    }
    for (let j = 0, k = a * h; j < h; j++) {
      let u = w["2.bias"][a + j];
      for (let l = 0; l < h; l++, k++) u += w["2.weight"][k] * one[l];
      two[j] = u / (1 + Math.exp(-u));
    }
    let s = w["4.bias"][2 * i], t = w["4.bias"][2 * i + 1];
    for (let j = 0; j < h; j++) {
      s += w["4.weight"][2 * a + j] * two[j];
      t += w["4.weight"][2 * a + h + j] * two[j];
    }
    return [2 * Math.tanh(s / 2), t];
  };

  // Layer i, data to latent, and its log |det|; and its inverse.
  const layer = (net, i, p) => {
    const kept = net.flip[i] ? 1 : 0, [s, t] = steer(net, i, p[kept]), q = [...p];
    q[1 - kept] = p[1 - kept] * Math.exp(s) + t;
    return [q, s];
  };
  const undo = (net, i, p) => {
    const kept = net.flip[i] ? 1 : 0, [s, t] = steer(net, i, p[kept]), q = [...p];
    q[1 - kept] = (p[1 - kept] - t) * Math.exp(-s);
    return q;
  };
  // The places of z after none, one, … all layers of the inverse.
  const path = (net, z) => {
    const found = [z];
    for (let i = net.n - 1; i >= 0; i--) found.push(undo(net, i, found.at(-1)));
    return found;
  };
  // Log density of x in nats, and its parts: that of z, one log |det| a layer, the standardisation.
  const logProb = (net, x) => {
    let p = x.map((v, k) => (v - net.shift[k]) / net.scale[k]);
    const parts = [];
    for (let i = 0; i < net.n; i++) {
      const [next, s] = layer(net, i, p);
      parts.push(s);
      p = next;
    }
    const base = TAIL - 0.5 * (p[0] ** 2 + p[1] ** 2), units = -course.sum(net.scale.map(Math.log));
    return { z: p, base, parts, units, total: base + course.sum(parts) + units };
  };

  const quadrant = ([a, b]) => (a >= 0 ? (b >= 0 ? 0 : 3) : b >= 0 ? 1 : 2);

  const render = ({ model, el }) => course.figure(el, {
    data: "bend",
    tell: "A grid and points of a Gaussian, in four colours, bent layer by layer until they lie on two half moons; one chosen point "
      + "with its path. Beside it, bars in nats: the log density of z, and what each layer adds to it.",
    ratio: (width) => (width < 600 ? 1.75 * width : 0.62 * width),
  }, (figure) => {
    const net = load(course.data.bend);
    const normals = course.normals(3, 2 * CLOUD);
    const cloud = Array.from({ length: CLOUD }, (_, i) => path(net, [normals[2 * i], normals[2 * i + 1]]));
    // What each stage needs to be seen whole: a centre and half a width.
    const views = course.steps(0, net.n, net.n + 1).map((k) => {
      const seen = [0, 1].map((d) => cloud.map((stages) => stages[k][d]).sort((a, b) => a - b));
      const [low, high] = [seen.map((v) => v[2]), seen.map((v) => v.at(-3))];
      return { centre: low.map((v, d) => (v + high[d]) / 2), half: 0.62 * Math.max(...low.map((v, d) => high[d] - v)) };
    });
    // Half lines of a grid, with more points wherever a stage stretches them.
    const apart = (a, b) => Math.max(...a.map((p, k) => Math.hypot(p[0] - b[k][0], p[1] - b[k][1]) / views[k].half));
    const refined = (a, b, depth) => {
      if (!depth || apart(a, b) < 0.05) return [b];
      const middle = path(net, [0, 1].map((d) => (a[0][d] + b[0][d]) / 2));
      return [...refined(a, middle, depth - 1), ...refined(middle, b, depth - 1)];
    };
    const half = (at) => {
      const places = course.steps(0, 2.5, 26).map((v) => path(net, at(v)));
      return { part: quadrant(at(1)), stages: places.flatMap((b, i) => (i ? refined(places[i - 1], b, 7) : [b])) };
    };
    const lines = LINES.flatMap((v) => [1, -1].flatMap((sign) => [half((u) => [sign * u, v]), half((u) => [v, sign * u])]));
    let shown = 0, z = model.get("start") ?? [0.5, -1], stages = path(net, z), at = null;

    const layers = figure.range("Layers applied", { min: 0, max: net.n, step: 1, value: 0,
      words: (v) => (v === 0 ? "none: this is z" : v === net.n ? `all ${net.n}: this is x` : `${v} of ${net.n}`) },
    (v) => show(v, 350));
    const show = (goal, time) => {
      const from = shown;
      layers.set(goal);
      figure.animate(time, (t) => { shown = course.mix(from, goal, t * t * (3 - 2 * t)); });
    };
    const put = (next) => {
      z = next.map((v) => course.clamp(v, -3.5, 3.5));
      stages = path(net, z);
      sliders.forEach((slider, k) => slider.set(z[k]));
    };
    const sliders = [0, 1].map((k) => figure.range(`z${"₁₂"[k]} of the point`, { min: -3.5, max: 3.5, step: 0.05, value: z[k],
      words: (v) => course.shown(v) }, (v) => put(z.map((old, d) => (d === k ? v : old)))));
    figure.buttons({
      "From z to x": () => { shown = 0; show(net.n, 4000); },
      "Back to z": () => show(0, 4000),
    });

    // A place between two stages lies on the straight line between them, for the eye.
    const between = (places) => {
      const k = Math.min(Math.floor(shown), net.n - 1), t = shown - k;
      return [0, 1].map((d) => course.mix(places[k][d], places[k + 1][d], t));
    };
    const toZ = (p) => {
      let found = [at.toX(p.x), at.toY(p.y)];
      for (let i = net.n - Math.round(shown); i < net.n; i++) [found] = layer(net, i, found);
      return found;
    };
    figure.pointer({
      hit: (p) => (at?.inside(p) ? "point" : null),
      move: (_, p) => put(toZ(p)),
      end: (_, p) => put(toZ(p)),
    });

    return (g, width, height, c) => {
      const tints = [c.blue, c.orange, c.green, c.pink];
      const narrow = width < 600, left = 0.5 * c.size, top = 2 * c.size;
      const side = narrow ? width - 1.5 * c.size : Math.min(height - top - 1.5 * c.size, 0.58 * width);
      const k = Math.min(Math.floor(shown), net.n - 1), t = shown - k;
      const centre = [0, 1].map((d) => course.mix(views[k].centre[d], views[k + 1].centre[d], t));
      const half = course.mix(views[k].half, views[k + 1].half, t);
      const box = { left, top, width: side, height: side };
      const raw = half / 2, step = 10 ** Math.floor(Math.log10(raw)) * (raw / 10 ** Math.floor(Math.log10(raw)) > 2 ? 2 : 1);
      const ticks = (d) => course.steps(-40, 40, 81).map((i) => +(i * step).toFixed(6)).filter((v) => Math.abs(v - centre[d]) < 0.9 * half);
      const title = shown === 0 ? "latent z" : shown === net.n ? "data x, standardised" : `after ${Math.round(shown)} of ${net.n} layers`;
      at = course.axes(g, c, box, { x: [centre[0] - half, centre[0] + half], y: [centre[1] - half, centre[1] + half],
        xTicks: ticks(0), yLabel: title });
      g.strokeStyle = c.line;
      g.strokeRect(left, top, side, side);
      const spot = (p) => [at.x(p[0]), at.y(p[1])];
      at.clip(() => {
        g.globalAlpha = 0.75;
        for (const { part, stages: line } of lines) course.line(g, line.map((places) => spot(between(places))), tints[part], 1.2);
        for (const places of cloud) course.dot(g, ...spot(between(places)), 1.7, tints[quadrant(places[0])]);
        g.globalAlpha = 1;
        const now = spot(between(stages)), trail = stages.slice(0, Math.floor(shown) + 1).map(spot);
        course.line(g, [...trail, now], c.ink, 2, [6, 4]);
        for (const p of trail) course.dot(g, ...p, 3, c.ink);
        course.dot(g, ...now, 7.5, c.orange, c.ink);
      });

      // What adds up to log q(x): running bars from the top down.
      const x = stages.at(-1).map((v, d) => v * net.scale[d] + net.shift[d]);
      const found = logProb(net, x);
      const rows = [["log p(z)", found.base], ...found.parts.map((s, i) => [`layer ${i + 1}`, s]).reverse(),
        ["units", found.units], ["log q(x)", found.total]];
      const ends = [0];
      rows.slice(0, -1).forEach(([, v]) => ends.push(ends.at(-1) + v));
      const low = Math.min(-4, ...ends), high = Math.max(4, ...ends);
      const start = narrow ? left : left + side + 1.5 * c.size, head = narrow ? top + side + 3.2 * c.size : top;
      const name = 5 * c.size, room = width - start - name - 3.4 * c.size;
      const row = (height - head - 0.6 * c.size) / (rows.length + 1);
      const place = (v) => start + name + room * (v - low) / (high - low);
      course.write(g, "log |det| of each layer, in nats", start, head + 0.2 * row, { colour: c.ink });
      course.line(g, [[place(0), head + 0.6 * row], [place(0), height - 0.5 * c.size]], c.line, 1.5);
      rows.forEach(([label, v], i) => {
        const total = i === rows.length - 1, y = head + (i + 0.75) * row;
        const [a, b] = (total ? [0, v] : [ends[i], ends[i + 1]]).map(place);
        const met = total || i <= shown || (i === rows.length - 2 && shown === net.n);
        g.globalAlpha = met ? 1 : 0.45;
        g.fillStyle = total ? c.ink : i === 0 ? c.blue : v < 0 ? c.orange : c.green;
        g.fillRect(Math.min(a, b), y + 0.12 * row, Math.max(1.5, Math.abs(b - a)), 0.7 * row);
        g.globalAlpha = 1;
        course.write(g, label, start + name - 0.5 * c.size, y + 0.5 * row, { colour: c.ink, align: "right", base: "middle", bold: total });
        course.write(g, (v > 0 && !total ? "+" : "") + course.shown(v), Math.max(a, b) + 5, y + 0.5 * row, { colour: c.ink, base: "middle", bold: total });
      });
      const adds = course.sum(found.parts);
      return `${Math.round(shown)} of ${net.n} layers applied. The point z = (${course.shown(z[0])}, ${course.shown(z[1])}) becomes x = (${course.shown(x[0])}, ${course.shown(x[1])}). `
        + `Its log density: ${course.shown(found.base)} nats from the Gaussian, ${course.shown(adds)} nats from the determinants, ${course.shown(found.units)} nats from the units; `
        + `together log q(x) = ${course.shown(found.total)} nats.`;
    };
  });

  course.bend = { render, load, logProb, path };
}
