// Doubt: a Bayesian network whose first layer is drawn once and kept, so that its posterior is exact.
"use strict";

{
  const UNITS = 50, DRAWS = 6, Z90 = 1.6449, X = [-3, 3], Y = [-3, 3];
  const START = [[-2.0, -0.4], [-1.7, 0.5], [-1.2, 1.1], [1.0, -0.9], [1.5, -0.3], [1.9, 0.8]];

  // First layer: weights and biases of the units; last layer and noise of the functions drawn.
  const first = course.normals(4, 2 * UNITS);
  const last = Array.from({ length: DRAWS }, (_, i) => course.normals(100 + i, UNITS + 1));
  const noises = Array.from({ length: DRAWS }, (_, i) => course.normals(200 + i, 40));

  // What the last layer sees, such that its weights have prior N(0, 1): the output's bias, then tanh.
  const features = (x, { wiggle, scale }) => {
    const found = new Float64Array(UNITS + 1);
    found[0] = scale;
    for (let j = 0; j < UNITS; j++)
      found[j + 1] = scale * Math.tanh(wiggle * (first[j] * x + first[UNITS + j])) / Math.sqrt(UNITS);
    return found;
  };
  const dot = (a, b) => { let s = 0; for (let i = 0; i < a.length; i++) s += a[i] * b[i]; return s; };

  // The lower triangle L with L Lᵀ = a, and the solution of L v = b.
  const cholesky = (a) => {
    const l = a.map((row) => new Float64Array(row.length));
    for (let i = 0; i < a.length; i++)
      for (let j = 0; j <= i; j++) {
        let s = a[i][j];
        for (let k = 0; k < j; k++) s -= l[i][k] * l[j][k];
        l[i][j] = i === j ? Math.sqrt(s) : s / l[j][j];
      }
    return l;
  };
  const solve = (l, b) => {
    const v = new Float64Array(b.length);
    for (let i = 0; i < b.length; i++) {
      let s = b[i];
      for (let k = 0; k < i; k++) s -= l[i][k] * v[k];
      v[i] = s / l[i][i];
    }
    return v;
  };

  // Exact posterior of f at the places xs: mean, covariance, log evidence of y in nats, and draws.
  const posterior = (points, settings, xs, draws = 0) => {
    const seen = points.map(([x]) => features(x, settings));
    const l = cholesky(seen.map((a, i) => seen.map((b, j) => dot(a, b) + (i === j ? settings.noise ** 2 : 0))));
    const residual = solve(l, points.map(([, y]) => y));
    const at = xs.map((x) => features(x, settings));
    const ways = at.map((a) => solve(l, seen.map((b) => dot(a, b))));
    return {
      mean: ways.map((v) => dot(v, residual)),
      covariance: (i, j) => dot(at[i], at[j]) - dot(ways[i], ways[j]),
      evidence: -0.5 * dot(residual, residual) - course.sum(l.map((row, i) => Math.log(row[i])))
        - 0.5 * points.length * Math.log(2 * Math.PI),
      // A draw of the prior, moved by what the points say of it: a draw of the posterior.
      draws: last.slice(0, draws).map((w, s) => {
        const miss = solve(l, points.map(([, y], i) => y - dot(seen[i], w) - settings.noise * noises[s][i]));
        return at.map((a, i) => dot(a, w) + dot(ways[i], miss));
      }),
    };
  };

  const render = ({ model, el }) => course.figure(el, {
    tell: "Data points in a plane; the mean of a Bayesian network, six of its functions, and two bands that hold 90 per cent: "
      + "of its functions, and of new measurements. Below, the variance, epistemic and aleatoric part on top of each other.",
    ratio: (width) => (width < 500 ? 1.1 * width : Math.min(0.62 * width, 0.8 * innerHeight)),
  }, (figure) => {
    const given = model.get("start") ?? {};
    const points = (given.points ?? START).map((point) => [...point]);
    const settings = { wiggle: 2, scale: 1.5, noise: 0.2, ...given.settings };
    let chosen = 0, probe = 0, main = null;

    const times = (v) => `× ${course.shown(v, v < 1 ? 2 : 1)}`;
    const log = (label, key, low, high, words) =>
      figure.range(label, { min: Math.log10(low), max: Math.log10(high), step: 0.02, value: Math.log10(settings[key]),
        words: (v) => words(10 ** v) }, (v) => { settings[key] = 10 ** v; });
    log("Noise σ", "noise", 0.05, 1, (v) => `${course.shown(v)} units of y`);
    log("Prior scale of the last layer", "scale", 0.2, 5, times);
    log("Prior scale of the first layer", "wiggle", 0.1, 30, times);
    const look = figure.range("Look at x", { min: X[0], max: X[1], step: 0.05, value: 0, words: (v) => course.shown(v) },
      (v) => { probe = v; });
    const part = figure.folded("Move points with the keyboard");
    const axis = (label, k) => figure.range(label, { min: -3, max: 3, step: 0.05, value: 0, words: (v) => course.shown(v), into: part },
      (v) => { if (points.length) points[chosen][k] = v; });
    const which = figure.range("Chosen point", { min: 1, max: 1, step: 1, value: 1, into: part,
      words: (v) => (points.length ? `number ${v} of ${points.length}` : "none") }, (v) => choose(v - 1));
    const placed = [axis("its x", 0), axis("its y", 1)];
    const choose = (i) => {
      chosen = course.clamp(i, 0, Math.max(0, points.length - 1));
      which.limit(Math.max(1, points.length));
      which.set(chosen + 1);
      if (points.length) placed.forEach((slider, k) => slider.set(points[chosen][k]));
    };
    const add = (x, y) => { if (points.length < 30) choose(points.push([x, y]) - 1); };
    figure.buttons({
      "Add a point": () => add(probe, 0),
      "Remove the chosen point": () => { points.splice(chosen, 1); choose(chosen); },
      "Remove all": () => { points.length = 0; choose(0); },
    });
    choose(0);

    figure.pointer({
      hit: (p, peek) => {
        if (!main) return null;
        const reach = p.touch ? 26 : 14;
        const far = points.map(([x, y]) => Math.hypot(main.x(x) - p.x, main.y(y) - p.y));
        const near = far.indexOf(Math.min(...far));
        if (near >= 0 && far[near] < reach) {
          if (!peek) choose(near);
          return near;
        }
        return main.inside(p) && !(peek && p.touch) ? "new" : null;
      },
      move: (what, p) => {
        if (what === "new") return;
        points[what] = [course.clamp(main.toX(p.x), ...X), course.clamp(main.toY(p.y), ...Y)];
        choose(what);
      },
      end: (what, p, moved) => { if (what === "new" && !moved) add(main.toX(p.x), main.toY(p.y)); },
    });

    return (g, width, height, c) => {
      const left = 2.4 * c.size, right = width - 0.6 * c.size, foot = 2.8 * c.size;
      const low = Math.max(4 * c.size, 0.17 * height), top = 2.2 * c.size;
      main = course.axes(g, c, { left, top, width: right - left, height: height - top - low - foot - 3 * c.size },
        { x: X, y: Y, xTicks: [-2, 0, 2], yTicks: [-2, 0, 2], yLabel: width < 500 ? "" : "y" });
      const xs = course.steps(...X, 151);
      const found = posterior(points, settings, [...xs, probe], DRAWS);
      const doubt = found.mean.map((_, i) => Math.max(0, found.covariance(i, i)));
      const own = (i) => doubt[i], whole = (i) => doubt[i] + settings.noise ** 2;
      const edge = (sign, variance) => xs.map((x, i) =>
        [main.x(x), main.y(found.mean[i] + sign * Z90 * Math.sqrt(variance(i)))]);
      main.clip(() => {
        course.band(g, edge(1, whole), edge(1, own), c.orange, 0.45);
        course.band(g, edge(-1, own), edge(-1, whole), c.orange, 0.45);
        course.band(g, edge(1, own), edge(-1, own), c.blue, 0.35);
        for (const draw of found.draws) course.line(g, xs.map((x, i) => [main.x(x), main.y(draw[i])]), c.soft, 0.8);
        course.line(g, xs.map((x, i) => [main.x(x), main.y(found.mean[i])]), c.ink, 2.5);
        course.line(g, [[main.x(probe), top], [main.x(probe), height]], c.soft, 1.5, [4, 4]);
        points.forEach(([x, y], i) => course.dot(g, main.x(x), main.y(y), i === chosen ? 7 : 5.5, c.ink, i === chosen ? c.orange : null));
      });
      const ends = { align: "right", bold: true };
      const last = width < 500 ? "and measurements" : "and of measurements";
      course.write(g, last, right, top - 0.6 * c.size, { ...ends, colour: c.orange });
      g.font = `bold ${g.font}`;
      const space = g.measureText(`${last} `).width;
      g.font = g.font.replace(/^(bold|700) /, "");
      course.write(g, "90 % of functions", right - space, top - 0.6 * c.size, { ...ends, colour: c.blue });

      const most = 1.1 * (Math.max(...doubt) + settings.noise ** 2);
      const below = course.axes(g, c, { left, top: height - low - foot, width: right - left, height: low },
        { x: X, y: [0, most], xTicks: [-2, 0, 2], xLabel: "input x", yTicks: [0], yLabel: "variance" });
      const level = (variance) => xs.map((x, i) => [below.x(x), below.y(variance(i))]);
      course.band(g, level(own), level(() => 0), c.blue, 0.6);
      course.band(g, level(whole), level(own), c.orange, 0.7);
      course.line(g, [[below.x(probe), below.box.top], [below.x(probe), height - foot]], c.soft, 1.5, [4, 4]);
      course.write(g, "epistemic", right - 5.6 * c.size, below.box.top - 0.6 * c.size, { ...ends, colour: c.blue });
      course.write(g, "aleatoric", right, below.box.top - 0.6 * c.size, { ...ends, colour: c.orange });

      const mean = found.mean.at(-1), variance = doubt.at(-1), share = variance / (variance + settings.noise ** 2);
      const span = (v) => `${course.shown(mean - Z90 * Math.sqrt(v))} and ${course.shown(mean + Z90 * Math.sqrt(v))}`;
      return `${points.length || "No"} point${points.length === 1 ? "" : "s"}. At x = ${course.shown(probe)}, 90 % of the functions lie between ${span(variance)}, `
        + `and 90 % of new measurements between ${span(variance + settings.noise ** 2)}. Of the variance there, ${Math.round(100 * share)} % `
        + `is epistemic (more points would remove it) and ${Math.round(100 * (1 - share))} % aleatoric (noise)`
        + (points.length ? `. The log evidence of these points is ${course.shown(found.evidence)} nats. Chosen is point ${chosen + 1}, `
          + `at (${points[chosen].map((v) => course.shown(v)).join(", ")}).` : ".");
    };
  });

  course.doubt = { render, posterior, first };
}
