// Noise and back: the moons of the notebook on diffusion, its exact denoiser and the one it has learnt.
"use strict";

{
  const NODES = 192, FLOW = 300, CUT = 60, NAMES = ["0", "2", "4", "6"], VIEW = { x: [-1.7, 2.7], y: [-1.5, 2.0] };

  // Places and weights of the quadrature over [-1, 1], by Newton's method on Legendre's polynomial.
  const gaussLegendre = (n) => course.steps(0, n - 1, n).map((i) => {
    let v = Math.cos(Math.PI * (i + 0.75) / (n + 0.5)), slope = 1;
    for (let round = 0; round < 6; round++) {
      let [before, p] = [1, v];
      for (let k = 2; k <= n; k++) [before, p] = [p, ((2 * k - 1) * v * p - (k - 1) * before) / k];
      slope = n * (v * p - before) / (v * v - 1);
      v -= p / slope;
    }
    return [v, 2 / ((1 - v * v) * slope * slope)];
  });

  const load = (data) => {
    const { hidden: h, noise, top, scale } = data, widths = [3, h, h, h, 2];
    const layers = NAMES.map((name, i) => {
      const [weight, bias] = [course.floats(data.weights[`${name}.weight`]), course.floats(data.weights[`${name}.bias`])];
      if (weight.length !== widths[i] * widths[i + 1] || bias.length !== widths[i + 1]) throw new Error(name);
      return { weight, bias, into: widths[i], out: widths[i + 1] };
    });
    if (![...data.centre, scale, noise, top].every(Number.isFinite)) throw new Error("number");
    const moons = gaussLegendre(NODES).map(([v, weight]) => [Math.PI * (v + 1) / 2, weight])
      .flatMap(([a, weight]) => [[Math.cos(a), Math.sin(a), weight], [1 - Math.cos(a), 0.5 - Math.sin(a), weight]]);
    return { layers, noise, top, scale, centre: data.centre, moons };
  };

  // The best guess of x from z and the noise level, E[x | z].
  const exact = (net, z, sigma) => {
    const v = net.noise ** 2 + sigma ** 2;
    const far = net.moons.map(([a, b]) => (z[0] - a) ** 2 + (z[1] - b) ** 2), least = Math.min(...far);
    let sum = 0, x = 0, y = 0;
    net.moons.forEach(([a, b, weight], i) => {
      const w = weight * Math.exp((least - far[i]) / (2 * v));
      sum += w;
      x += w * a;
      y += w * b;
    });
    const part = sigma ** 2 / v;
    return [z[0] + part * (x / sum - z[0]), z[1] + part * (y / sum - z[1])];
  };
  // That of the network.
  const learnt = (net, z, sigma) => {
    const d = z.map((v, k) => v - net.centre[k]), total = sigma ** 2 + net.scale ** 2;
    let seen = [...d.map((v) => v / Math.sqrt(total)), Math.asinh(sigma / net.noise) / 3 - 1];
    net.layers.forEach(({ weight, bias, into, out }, number) => {
      const next = new Float64Array(out);
      for (let o = 0, k = 0; o < out; o++) {
        let sum = bias[o];
        for (let i = 0; i < into; i++, k++) sum += weight[k] * seen[i];
        next[o] = number === net.layers.length - 1 ? sum : sum / (1 + Math.exp(-sum));
      }
      seen = next;
    });
    return d.map((v, k) => net.centre[k] + net.scale ** 2 / total * v + sigma * net.scale / Math.sqrt(total) * seen[k]);
  };

  // Levels with equal steps of u, σ = noise · sinh u, from the top to no noise.
  const levels = (net) => course.steps(0, 1, CUT + 1)
    .map((t) => net.noise * Math.sinh((1 - t) * Math.asinh(net.top / net.noise)));
  // The way of z along dz/dσ = (z − x̂) / σ, by Heun's method; its place at every level.
  const flow = (denoise, z, sigmas) => {
    const path = [z];
    sigmas.slice(0, -1).forEach((sigma, i) => {
      const below = sigmas[i + 1], slope = denoise(z, sigma).map((v, k) => (z[k] - v) / sigma);
      let step = slope;
      if (below > 0) {
        const trial = z.map((v, k) => v + (below - sigma) * slope[k]);
        step = denoise(trial, below).map((v, k) => (slope[k] + (trial[k] - v) / below) / 2);
      }
      z = z.map((v, k) => v + (below - sigma) * step[k]);
      path.push(z);
    });
    return path;
  };

  const render = ({ model, el }) => course.figure(el, {
    data: "noise",
    tell: "Two half moons, and points that come down from noise to them; arrows in two colours lead from places z to the best guess "
      + "of the point without noise: the exact guess, and that of a network. One chosen point is drawn with its path.",
    ratio: (width) => (width < 500 ? 0.95 * width : 0.72 * width),
  }, (figure) => {
    const net = load(course.data.noise), sigmas = levels(net);
    const start = course.normals(11, 2 * FLOW);
    const places = Array.from({ length: FLOW }, (_, i) => [0, 1].map((k) => net.centre[k] + net.top * start[2 * i + k]));
    const fields = [(z, s) => exact(net, z, s), (z, s) => learnt(net, z, s)];
    // The points of each field, computed when first shown; thirty at a time, so that no hand waits.
    const flows = [[], []];
    let which = 0, level = model.get("start") ?? 45, chosen = [-0.5, -0.5], at = null, job = 0;
    const fill = () => {
      clearTimeout(job);
      const mine = flows[which];
      for (let i = 0; i < 12 && mine.length < FLOW; i++) mine.push(flow(fields[which], places[mine.length], sigmas));
      if (mine.length < FLOW && figure.canvas) job = setTimeout(() => { fill(); figure.redraw(); }, 0);
    };
    const step = figure.range("Time", { min: 0, max: CUT, step: 1, value: level,
      words: (v) => (v === CUT ? "no noise left" : `noise level σ = ${course.shown(sigmas[v], sigmas[v] < 0.1 ? 3 : 2)}`) },
    (v) => { level = v; });
    figure.choice("Points flow along", ["the exact field", "the learnt field"], 0, (i) => { which = i; fill(); });
    const put = (z) => {
      chosen = z;
      sliders.forEach((slider, k) => slider.set(chosen[k]));
    };
    const sliders = ["x", "y"].map((axis, k) => figure.range(`z${"₁₂"[k]} of the chosen place`, { min: VIEW[axis][0], max: VIEW[axis][1],
      step: 0.05, value: chosen[k], words: (v) => course.shown(v) }, (v) => put(chosen.map((old, d) => (d === k ? v : old)))));
    const travel = (from, to) => figure.animate(5000, (t) => {
      level = Math.round(course.mix(from, to, t));
      step.set(level);
    });
    figure.buttons({ "From noise to data": () => travel(0, CUT), "Back to noise": () => travel(level, 0) });
    figure.pointer({
      hit: (p) => (at?.inside(p) ? "z" : null),
      move: (_, p) => put([at.toX(p.x), at.toY(p.y)]),
      end: (_, p) => put([at.toX(p.x), at.toY(p.y)]),
    });
    fill();

    return (g, width, height, c) => {
      const sigma = sigmas[Math.min(level, CUT - 1)], top = 2 * c.size, left = 2.8 * c.size;
      // The view widens with the noise.
      const wide = 1 + 1.6 * sigmas[level];
      const span = ([a, b]) => [0.5, -0.5].map((v) => (a + b) / 2 - v * (b - a) * wide);
      const room = { width: width - left - 0.5 * c.size, height: height - top - 2.6 * c.size };
      const [x, y] = [span(VIEW.x), span(VIEW.y)], unit = Math.min(room.width / (x[1] - x[0]), room.height / (y[1] - y[0]));
      const half = [room.width / unit / 2, room.height / unit / 2], middle = [0.5, 0.25];
      const size = 10 ** Math.floor(Math.log10(half[1])), ticks = (k) => course.steps(-20, 20, 41).map((v) => v * size)
        .filter((v) => Math.abs(v - middle[k]) < 0.95 * half[k]);
      at = course.axes(g, c, { left, top, ...room }, { x: [middle[0] - half[0], middle[0] + half[0]], y: [middle[1] - half[1], middle[1] + half[1]],
        xTicks: ticks(0), yTicks: ticks(1), xLabel: "z₁", yLabel: width < 500 ? "" : "z₂" });
      sliders.forEach(({ input }, k) => Object.assign(input, { min: (middle[k] - half[k]).toFixed(1), max: (middle[k] + half[k]).toFixed(1) }));
      put(chosen.map((v, k) => course.clamp(v, middle[k] - half[k], middle[k] + half[k])));
      const spot = (z) => [at.x(z[0]), at.y(z[1])];
      const arrow = (from, to, colour, thick) => {
        const [a, b] = [spot(from), spot(to)], long = Math.hypot(b[0] - a[0], b[1] - a[1]), head = Math.min(0.5 * long, (thick + 2) * 2 * g.unit);
        const turn = Math.atan2(b[1] - a[1], b[0] - a[0]);
        course.line(g, [a, b], colour, thick);
        course.line(g, [-0.45, 0, 0.45].map((v, i) => (i === 1 ? b : [b[0] - head * Math.cos(turn + v), b[1] - head * Math.sin(turn + v)])), colour, thick);
      };
      at.clip(() => {
        for (const k of [0, 1])
          course.line(g, net.moons.filter((_, i) => i % 2 === k).map(spot), c.line, Math.max(2, 2 * net.noise * unit / g.unit));
        flows[which].forEach((path) => course.dot(g, ...spot(path[level]), 2.2, which ? c.orange : c.blue));
        for (let i = 0; i < 11; i++)
          for (let j = 0; j < 8; j++) {
            const z = [at.toX(at.box.left + at.box.width * (i + 0.5) / 11), at.toY(at.box.top + at.box.height * (j + 0.5) / 8)];
            const cell = 0.75 * at.box.width / 11 / unit;
            fields.forEach((field, k) => {
              // At most a cell long, so that arrows do not cross.
              const way = field(z, sigma).map((v, d) => v - z[d]), short = Math.min(1, cell / Math.hypot(...way));
              arrow(z, z.map((v, d) => v + short * way[d]), k ? c.orange : c.blue, k ? 1.3 : 2.6);
            });
          }
        const path = flow(fields[which], chosen, [sigma, ...sigmas.slice(level + 1)]);
        course.line(g, path.map(spot), c.ink, 2, [6, 4]);
        course.dot(g, ...spot(path.at(-1)), 4, c.ink);
        course.dot(g, ...spot(chosen), 7.5, which ? c.orange : c.blue, c.ink);
      });
      course.write(g, "learnt", left + room.width, top - 0.6 * c.size, { colour: c.orange, align: "right", bold: true });
      course.write(g, "exact guess", left + room.width - 4.6 * c.size, top - 0.6 * c.size, { colour: c.blue, align: "right", bold: true });
      const [best, found] = fields.map((field) => field(chosen, sigma));
      const off = Math.hypot(best[0] - found[0], best[1] - found[1]), pair = (v) => `(${v.map((u) => course.shown(u)).join(", ")})`;
      return `Noise level σ = ${course.shown(sigmas[level], 3)}. At z = ${pair(chosen)} the best guess of x is ${pair(best)}; the network says ${pair(found)}, `
        + `${course.shown(off, 3)} away, ${course.shown(off / sigma, 2)} in units of σ. Arrows are shortened to a cell.`;
    };
  });

  course.noise = { render, load, exact, learnt, levels, flow };
}
