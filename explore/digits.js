// The plane of digits: the decoder of section 6 of the notebook on autoencoders, in the page.
"use strict";

{
  const PIXELS = 784, REACH = 5, WALK = 9, DRAWS = 20, REST = [0.6, 0.4];

  // The error function (Abramowitz and Stegun 7.1.26, off by 1.5e-7 at most), for GELU.
  const erf = (v) => {
    const t = 1 / (1 + 0.3275911 * Math.abs(v));
    const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return Math.sign(v) * (1 - tail * Math.exp(-v * v));
  };
  const gelu = (v) => 0.5 * v * (1 + erf(v / Math.SQRT2));

  const load = (data) => {
    const layers = data.layers.map(({ shape: [out, into], kind, weight, scale, bias }) => {
      const bytes = course.bytes(weight);
      const whole = kind === "<i2" ? new Int16Array(bytes.buffer) : new Int8Array(bytes.buffer);
      const scales = course.floats(scale), biases = course.floats(bias);
      if (whole.length !== out * into || scales.length !== out || biases.length !== out) throw new Error("shape");
      return { out, into, bias: biases, weight: Float32Array.from(whole, (v, i) => v * scales[Math.floor(i / into)]) };
    });
    const [mu, sigma] = [course.floats(data.mu), course.floats(data.sigma)];
    const [bits, kind] = [course.bytes(data.pixels), course.bytes(data.kind)];
    const n = kind.length;
    if (!n || mu.length !== 2 * n || sigma.length !== 2 * n || 8 * bits.length !== PIXELS * n) throw new Error("length");
    return {
      n, layers, kind, colours: data.colours,
      code: (i) => [mu[2 * i], mu[2 * i + 1]],
      width: (i) => [sigma[2 * i], sigma[2 * i + 1]],
      pixel: (i, j) => (bits[(PIXELS * i + j) >> 3] >> (7 - (j & 7))) & 1,
    };
  };

  // Log-odds of the pixels, z (2) -> (784).
  const decode = (net, z) => {
    let seen = Float32Array.from(z);
    net.layers.forEach(({ out, into, weight, bias }, number) => {
      const next = new Float32Array(out), last = number === net.layers.length - 1;
      for (let o = 0, k = 0; o < out; o++) {
        let sum = bias[o];
        for (let i = 0; i < into; i++, k++) sum += weight[k] * seen[i];
        next[o] = last ? sum : gelu(sum);
      }
      seen = next;
    });
    return seen;
  };
  // −log p(x | z) of test digit i, and the rate, KL(q(z | x) ‖ p(z)), both in nats.
  const cost = (net, i, logits) => {
    let sum = 0;
    for (let j = 0; j < PIXELS; j++) {
      const v = net.pixel(i, j) ? -logits[j] : logits[j];
      sum += Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v)));
    }
    return sum;
  };
  const rate = (net, i) => course.sum([0, 1].map((k) => {
    const [m, s] = [net.code(i)[k], net.width(i)[k]];
    return 0.5 * (m * m + s * s - 1) - Math.log(s);
  }));
  // Distortion: the mean cost over draws of q(z | x).
  const eps = course.normals(7, 2 * DRAWS);
  const distortion = (net, i) => course.sum(course.steps(0, DRAWS - 1, DRAWS).map((s) =>
    cost(net, i, decode(net, net.code(i).map((m, k) => m + net.width(i)[k] * eps[2 * s + k]))))) / DRAWS;

  // An image of ink on the ground of the page.
  const image = (g, c, ink, x, y, size) => {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 28;
    const t = tile.getContext("2d"), data = t.createImageData(28, 28);
    for (let j = 0; j < PIXELS; j++) data.data.set([...c.rgb, Math.round(255 * ink(j))], 4 * j);
    t.putImageData(data, 0, 0);
    g.imageSmoothingEnabled = false;
    g.drawImage(tile, x, y, size, size);
    g.strokeStyle = c.line;
    g.lineWidth = 1;
    g.strokeRect(x, y, size, size);
  };
  const sigmoid = (v) => 1 / (1 + Math.exp(-v));

  const render = ({ model, el }) => course.figure(el, {
    data: "digits",
    tell: "The plane of codes: 700 test digits, each drawn at its code as its digit, and the point z that you move. "
      + "Beside it the image decoded at z and the chosen test digit; below, nine images on the straight way between two digits.",
    ratio: (width) => (width < 500 ? 1.75 * width : 0.78 * width),
  }, (figure) => {
    const net = load(course.data.digits);
    const typical = Array.from({ length: 10 }, (_, kind) => {
      const own = course.steps(0, net.n - 1, net.n).filter((i) => net.kind[i] === kind);
      const middle = [0, 1].map((k) => own.map((i) => net.code(i)[k]).sort((a, b) => a - b)[own.length >> 1]);
      const far = own.map((i) => Math.hypot(...net.code(i).map((v, k) => v - middle[k])));
      return own[far.indexOf(Math.min(...far))];
    });
    let z = model.get("start") ?? REST, goal = typical[1], chosen = typical[0], scores = null, plane = null;

    const place = (k) => figure.range(`z${"₁₂"[k]}`, { min: -REACH, max: REACH, step: 0.05, value: z[k], words: (v) => course.shown(v) },
      (v) => { z[k] = v; });
    const sliders = [place(0), place(1)];
    const put = (at) => {
      z = at.map((v) => course.clamp(v, -REACH, REACH));
      sliders.forEach((slider, k) => slider.set(z[k]));
    };
    const way = (t) => net.code(chosen).map((v, k) => course.mix(v, net.code(goal)[k], t));
    const walk = figure.range("Walk from the chosen digit", { min: 0, max: 1, step: 0.01, value: 0,
      words: (v) => `${Math.round(100 * v)} % of the way` }, (t) => put(way(t)));
    const kinds = [..."0123456789"].map((kind) => `a typical ${kind}`);
    const choose = (i) => {
      chosen = i;
      scores = { rate: rate(net, i), distortion: distortion(net, i) };
      put(net.code(i));
      walk.set(0);
      from.set(typical.indexOf(i) < 0 ? 10 : typical.indexOf(i));
    };
    const from = figure.choice("Chosen digit", [...kinds, "one from the plane"], 0, (i) => i < 10 && choose(typical[i]));
    figure.choice("Walk to", kinds, 1, (i) => { goal = typical[i]; put(way(walk.value)); });
    figure.buttons({
      "Walk there": () => figure.animate(2500, (t) => { walk.set(t); put(way(t)); }),
    });
    const begun = z;
    choose(chosen);
    put(begun);

    figure.pointer({
      hit: (p) => (plane?.inside(p) ? "z" : null),
      move: (_, p) => put([plane.toX(p.x), plane.toY(p.y)]),
      end: (_, p, moved) => {
        if (moved) return;
        const far = course.steps(0, net.n - 1, net.n).map((i) => {
          const [x, y] = net.code(i);
          return Math.hypot(plane.x(x) - p.x, plane.y(y) - p.y);
        });
        const near = far.indexOf(Math.min(...far));
        if (far[near] < (p.touch ? 20 : 10)) choose(near);
        else put([plane.toX(p.x), plane.toY(p.y)]);
      },
    });

    return (g, width, height, c) => {
      const narrow = width < 500, left = 2.4 * c.size, gap = 1.4 * c.size, top = 1.8 * c.size;
      const strip = (width - 2) / WALK, rest = height - strip - 1.8 * c.size - top - 2.8 * c.size;
      const side = narrow ? width - left - 4 : Math.min(rest, 0.68 * width - left);
      plane = course.axes(g, c, { left, top, width: side, height: side },
        { x: [-REACH, REACH], y: [-REACH, REACH], xTicks: [-4, -2, 0, 2, 4], yTicks: [-4, -2, 0, 2, 4], yLabel: "z₂", xLabel: "z₁" });
      plane.clip(() => {
        for (const radius of [1, 2]) {
          g.beginPath();
          g.setLineDash([5, 5]);
          g.arc(plane.x(0), plane.y(0), plane.x(radius) - plane.x(0), 0, 2 * Math.PI);
          g.strokeStyle = c.soft;
          g.stroke();
          g.setLineDash([]);
        }
        g.save();
        g.font = `bold ${0.72 * c.size}px sans-serif`;
        for (let i = 0; i < net.n; i++) {
          const [x, y] = net.code(i);
          g.globalAlpha = 0.8;
          course.write(g, net.kind[i], plane.x(x), plane.y(y),
            { colour: c.dark ? `color-mix(in srgb, ${net.colours[net.kind[i]]} 55%, white)` : net.colours[net.kind[i]], align: "center", base: "middle" });
        }
        g.restore();
        course.line(g, [way(0), way(1)].map(([x, y]) => [plane.x(x), plane.y(y)]), c.orange, 2.5);
        const [x, y] = net.code(chosen), [a, b] = net.width(chosen);
        g.beginPath();
        g.ellipse(plane.x(x), plane.y(y), plane.x(a) - plane.x(0), plane.y(0) - plane.y(b), 0, 0, 2 * Math.PI);
        g.lineWidth = 2.5;
        g.strokeStyle = c.ink;
        g.stroke();
        course.dot(g, plane.x(z[0]), plane.y(z[1]), 8, c.orange, c.ink);
      });

      const logits = decode(net, z);
      const space = width - left - side - 2 * gap;
      const below = top + side + 3.8 * c.size;
      const tile = narrow ? Math.min((width - gap) / 2, 0.36 * width) : Math.min(space, (side - 4.4 * c.size) / 2);
      const second = narrow ? [left + tile + gap, below] : [left + side + gap, top + tile + 2.6 * c.size];
      const firstAt = narrow ? [left, below] : [left + side + gap, top];
      course.write(g, "decoded at z", firstAt[0], firstAt[1] - 0.5 * c.size, { colour: c.ink });
      image(g, c, (j) => sigmoid(logits[j]), ...firstAt, tile);
      course.write(g, "chosen digit x", second[0], second[1] - 0.5 * c.size, { colour: c.ink });
      image(g, c, (j) => net.pixel(chosen, j), ...second, tile);
      const foot = height - strip - 1;
      course.write(g, "on the way", 1, foot - 0.5 * c.size, { colour: c.ink });
      for (let i = 0; i < WALK; i++) {
        const part = decode(net, way(i / (WALK - 1)));
        image(g, c, (j) => sigmoid(part[j]), 1 + i * strip, foot, strip - 2);
      }
      const here = cost(net, chosen, logits);
      return `z = (${course.shown(z[0])}, ${course.shown(z[1])}). To tell the chosen ${net.kind[chosen]} from here costs −log p(x|z) = ${course.shown(here, 1)} nats. `
        + `Its own code costs a rate of ${course.shown(scores.rate, 1)} nats and leaves a distortion of ${course.shown(scores.distortion, 1)} nats: `
        + `its ELBO is ${course.shown(-scores.rate - scores.distortion, 1)} nats.`;
    };
  });

  course.digits = { render, load, decode, cost, rate, distortion };
}
