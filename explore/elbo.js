// ELBO and gap: one Gaussian q for a posterior with two modes, that of section 12 of the notebook on
// flows: prior N(0, 1), and a measurement of θ² that says 1.5 with standard deviation 0.4.
"use strict";

{
  const SEEN = 1.5, WIDTH = 0.4, HALF = 0.5 * Math.log(2 * Math.PI), REACH = [-3, 3];
  const logJoint = (t) => -HALF - t * t / 2 - HALF - Math.log(WIDTH) - (SEEN - t * t) ** 2 / (2 * WIDTH ** 2);
  const logQ = (t, m, s) => -HALF - Math.log(s) - ((t - m) / s) ** 2 / 2;

  // Integrals over an even grid; the integrands vanish at its ends, so that it is exact to rounding.
  const GRID = course.steps(-12, 12, 4801), STEP = GRID[1] - GRID[0];
  const integral = (f) => STEP * course.sum(GRID.map(f));
  const logEvidence = Math.log(integral((t) => Math.exp(logJoint(t))));
  const logPosterior = (t) => logJoint(t) - logEvidence;
  const post = GRID.map((t) => Math.exp(logPosterior(t)));
  const spread = Math.sqrt(integral((t, i) => post[i] * t * t));  // its mean is 0
  const entropy = -integral((t, i) => (post[i] ? post[i] * logPosterior(t) : 0));

  // E_q[log p(θ, y)] + entropy of q: the moments of a Gaussian are known.
  const elbo = (m, s) => {
    const two = m * m + s * s, four = m ** 4 + 6 * m * m * s * s + 3 * s ** 4;
    const fit = -2 * HALF - Math.log(WIDTH) - two / 2 - (SEEN ** 2 - 2 * SEEN * two + four) / (2 * WIDTH ** 2);
    return fit + HALF + 0.5 + Math.log(s);
  };
  // Its gradient by m and by log s.
  const slope = (m, s) => {
    const a = 1 / (2 * WIDTH ** 2);
    return [-m - a * (-4 * SEEN * m + 4 * m ** 3 + 12 * m * s * s),
      s * (-s - a * (-4 * SEEN * s + 12 * m * m * s + 12 * s ** 3)) + 1];
  };
  // KL(q ‖ p) by quadrature over q, not from the ELBO; KL(p ‖ q) from the moments of p.
  const reverse = (m, s) => {
    const ts = course.steps(m - 12 * s, m + 12 * s, 4801);
    return (ts[1] - ts[0]) * course.sum(ts.map((t) => Math.exp(logQ(t, m, s)) * (logQ(t, m, s) - logPosterior(t))));
  };
  const forward = (m, s) => -entropy + HALF + Math.log(s) + (spread ** 2 + m * m) / (2 * s * s);

  // Uphill from where q is, with steps that are shortened until they help.
  const climb = (m, s) => {
    const path = [[m, s]];
    for (let i = 0, rate = 0.1; i < 2000 && rate > 1e-12; i++) {
      const [dm, ds] = slope(m, s);
      const next = [m + rate * dm, s * Math.exp(course.clamp(rate * ds, -0.5, 0.5))];
      if (elbo(...next) > elbo(m, s)) {
        [m, s] = next;
        path.push(next);
        rate *= 1.3;
      } else rate /= 3;
    }
    return path;
  };

  const nats = (v) => `${course.shown(v)} nats`;

  const render = ({ model, el }) => course.figure(el, {
    tell: "A posterior with two peaks and a Gaussian q over it; below, bars in nats: the log evidence, the ELBO with the gap "
      + "KL(q‖p) that is missing to it, and KL(p‖q).",
    ratio: (width) => (width < 500 ? 1.15 * width : Math.min(0.62 * width, 0.8 * innerHeight)),
  }, (figure) => {
    let [m, s] = model.get("start") ?? [0.4, 0.8], at = null;
    const mean = figure.range("Mean of q", { min: -2.5, max: 2.5, step: 0.01, value: m, words: (v) => course.shown(v) },
      (v) => { m = v; });
    const width = figure.range("Standard deviation of q", { min: Math.log(0.05), max: Math.log(2.5), step: 0.005, value: Math.log(s),
      words: (v) => course.shown(Math.exp(v)) }, (v) => { s = Math.exp(v); });
    const put = (a, b) => {
      m = course.clamp(a, -2.5, 2.5);
      s = course.clamp(b, 0.05, 2.5);
      mean.set(m);
      width.set(Math.log(s));
    };
    figure.buttons({
      "Raise the ELBO from here": () => {
        const path = climb(m || 1e-3, s);
        figure.animate(900, (t) => put(...path[Math.round(t * (path.length - 1))]));
      },
      "Make KL(p‖q) smallest": () => {
        const [m0, s0] = [m, s];
        figure.animate(900, (t) => put(course.mix(m0, 0, t), course.mix(s0, spread, t)));
      },
    });
    figure.pointer({
      hit: (p) => {
        if (!at) return null;
        const reach = p.touch ? 28 : 16, peak = at.y(Math.exp(logQ(m, m, s))), side = at.y(Math.exp(logQ(m + s, m, s)));
        const handles = { left: [m - s, side], right: [m + s, side], peak: [m, peak] };
        const hits = Object.keys(handles).filter((k) => Math.hypot(at.x(handles[k][0]) - p.x, handles[k][1] - p.y) < reach);
        return hits.at(-1) ?? (at.inside(p) ? "peak" : null);
      },
      move: (what, p) => (what === "peak" ? put(at.toX(p.x), s) : put(m, Math.max(0.05, (at.toX(p.x) - m) * (what === "left" ? -1 : 1)))),
      end: (what, p, moved) => { if (what === "peak" && !moved) put(at.toX(p.x), s); },
    });

    return (g, w, h, c) => {
      const left = 1.2 * c.size, right = w - 0.8 * c.size, row = 2.7 * c.size;
      const highest = Math.max(Math.max(...post), Math.exp(logQ(m, m, s))) * 1.15;
      at = course.axes(g, c, { left, top: 1.8 * c.size, width: right - left, height: h - 4 * row - 7 * c.size },
        { x: REACH, y: [0, highest], xTicks: [-2, -1, 0, 1, 2], xLabel: "θ", yLabel: "density" });
      const ts = course.steps(...REACH, 301);
      const zero = ts.map((t) => [at.x(t), at.y(0)]);
      course.band(g, ts.map((t) => [at.x(t), at.y(Math.exp(logPosterior(t)))]), zero, c.soft, 0.35);
      const curve = ts.map((t) => [at.x(t), at.y(Math.exp(logQ(t, m, s)))]);
      at.clip(() => {
        course.band(g, curve, zero, c.blue, 0.15);
        course.line(g, curve, c.blue, 3);
        const side = Math.exp(logQ(m + s, m, s));
        course.line(g, [[at.x(m - s), at.y(side)], [at.x(m + s), at.y(side)]], c.blue, 1.5, [4, 4]);
      });
      for (const [t, v] of [[m, Math.exp(logQ(m, m, s))], ...[-s, s].map((d) => [m + d, Math.exp(logQ(m + s, m, s))])])
        course.dot(g, at.x(t), at.y(v), 7, c.blue, c.ink);
      course.write(g, "q", at.x(m) + 12, at.y(Math.exp(logQ(m, m, s))) - 8, { colour: c.blue, bold: true });
      course.write(g, "posterior p", right, 1.2 * c.size, { colour: c.soft, align: "right", bold: true });

      const found = { elbo: elbo(m, s), gap: reverse(m, s), other: forward(m, s) };
      const name = Math.min(11 * c.size, 0.36 * w), low = -8, high = 6;
      const bars = { x: (v) => left + name + (right - left - name) * (course.clamp(v, low, high) - low) / (high - low) };
      const top = at.box.top + at.box.height + 3 * c.size;
      const ticks = [-8, -6, -4, -2, 0, 2, 4, 6].filter((v) => w > 500 || v % 4 === 0);
      for (const v of ticks) {
        course.line(g, [[bars.x(v), top], [bars.x(v), top + 4 * row - 0.4 * c.size]], v ? c.line : c.soft, 1);
        course.write(g, course.shown(v, 0), bars.x(v), top + 4 * row + 0.9 * c.size, { colour: c.soft, align: "center" });
      }
      course.write(g, "nats", left, top + 4 * row + 0.9 * c.size, { colour: c.soft });
      [["log evidence", 0, logEvidence, c.ink, logEvidence], ["ELBO", 0, found.elbo, c.blue, found.elbo],
        ["gap KL(q‖p)", found.elbo, logEvidence, c.orange, found.gap], ["KL(p‖q)", 0, found.other, c.green, found.other],
      ].forEach(([label, from, to, colour, value], i) => {
        const y = top + i * row, [a, b] = [bars.x(from), bars.x(to)].sort((u, v) => u - v);
        g.fillStyle = colour;
        g.fillRect(a, y + 0.2 * c.size, Math.max(1.5, b - a), row - 1 * c.size);
        course.write(g, label, left + name - 0.5 * c.size, y + 0.9 * c.size, { colour: c.ink, align: "right", base: "middle" });
        const off = to > 0.7 * high;  // no room, or off the scale
        course.write(g, course.shown(value) + (to > high ? " →" : ""), off ? a - 6 : Math.max(b, from ? 0 : bars.x(0)) + 6, y + 0.9 * c.size,
          { colour: c.ink, base: "middle", align: off ? "right" : "left" });
      });
      course.line(g, [[bars.x(logEvidence), top], [bars.x(logEvidence), top + 3 * row]], c.ink, 1.5, [4, 4]);
      return `q has mean ${course.shown(m)} and standard deviation ${course.shown(s)}. The ELBO is ${nats(found.elbo)}, ${nats(found.gap)} `
        + `below the log evidence of ${nats(logEvidence)}: that gap is KL(q‖p). The other direction, KL(p‖q), is ${nats(found.other)}.`;
    };
  });

  course.elbo = { render, elbo, reverse, forward, climb, slope, logEvidence, spread };
}
