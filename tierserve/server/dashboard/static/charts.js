// Three charts, by uPlot, whose canvases take their colours from the sheet. x is seconds before now.

import { by, element } from "./build.js";
import { count, rate, seconds } from "./format.js";

const uPlot = window.uPlot;
const ROLES = ["small", "large"];

export class Charts {
  #made = [];
  #names = "";

  constructor() {
    const resized = new ResizeObserver(() => {
      for (const { plot, box } of this.#made) plot.setSize({ width: box.clientWidth, height: box.clientHeight });
    });
    for (const id of ["rates", "first", "scores"]) resized.observe(by(id));
  }

  // `anew`: other colours, or the page was hidden until now.
  draw(figures, anew) {
    const names = ROLES.map((role) => figures.tiers[role].name);
    if (anew || names.join() !== this.#names) {
      this.#names = names.join();
      for (const { plot } of this.#made) plot.destroy();
      this.#made = [rates(names, figures), first(names, figures), scores(figures)];
    }
    for (const chart of this.#made) chart.update(figures);
  }
}

// A custom property may be a pair for light and dark: what an element would show is what counts.
function colour(name, alpha = 1) {
  const probe = element("span");
  probe.style.color = alpha === 1 ? `var(${name})` : `color-mix(in srgb, var(${name}) ${alpha * 100}%, transparent)`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function chart(id, options, words, data) {
  const box = by(id);
  const grid = { stroke: colour("--line"), width: 1 };
  const axis = { stroke: colour("--muted"), grid, ticks: { show: false }, font: "12px system-ui, sans-serif", gap: 6 };
  const plot = new uPlot(
    {
      width: box.clientWidth,
      height: box.clientHeight,
      padding: [8, 12, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { setScale: false, x: false, y: false }, points: { size: 6 } },
      plugins: [tip(words)],
      ...options,
      axes: options.axes.map((each) => ({ ...axis, ...each })),
    },
    data(options.figures),
    box,
  );
  return { plot, box, update: (figures) => plot.setData(data(figures)) };
}

// What the pointer is on, in words(plot, index).
function tip(words) {
  const box = element("div", { kind: "tip" });
  box.hidden = true;
  return {
    hooks: {
      init: (plot) => plot.over.append(box),
      setCursor: (plot) => {
        const { idx, left } = plot.cursor;
        const text = idx === null || idx === undefined || left < 0 ? "" : words(plot, idx);
        box.hidden = !text;
        if (!text) return;
        box.textContent = text;
        const beyond = left > plot.over.clientWidth / 2;
        box.style.left = beyond ? "auto" : `${left + 12}px`;
        box.style.right = beyond ? `${plot.over.clientWidth - left + 12}px` : "auto";
        box.style.top = "4px";
      },
    },
  };
}

const ago = (plot, index) => `${Math.round(-plot.data[0][index])} s ago`;

const MINUTES = {
  size: 28,
  splits: (plot) => {
    const span = -plot.scales.x.min;
    const step = (span < 150 ? 30 : 60) * (plot.width < 420 ? 2 : 1);
    const marks = [];
    for (let at = 0; at >= -span; at -= step) marks.unshift(at);
    return marks;
  },
  values: (_, splits) => splits.map((at) => (!at ? "now" : at % 60 ? `${-at} s` : `${at / -60} min`)),
};

// As much of the window as the node has lived through.
const width = (figures) => Math.min(figures.window_s, Math.max(60, figures.now - figures.started));

// From nought; a chart of nothing is not a chart of noise.
const up = (least) => ({ range: (_, __, most) => [0, Math.max(least, (most ?? 0) * 1.1)] });

// Every slot of the window that is complete: those in which nothing happened are not sent.
function columns(figures, empty) {
  const { slot_s, window_s, now, slots } = figures;
  const last = now - (now % slot_s) - slot_s;
  const data = [[], [], [], [], [], [], []];
  for (let start = last - window_s + 2 * slot_s; start <= last; start += slot_s) {
    const slot = slots.get(start);
    data[0].push(start + slot_s - now);
    for (let column = 1; column < data.length; column++) data[column].push(slot ? slot[column] : empty(column));
  }
  return data;
}

function rates(names, figures) {
  const [small, large] = ROLES.map((role) => colour(`--${role}`));
  let shown = width(figures);
  const data = (latest) => {
    shown = width(latest);
    const [x, one, two] = columns(latest, () => 0);
    const last = x.length - 1;
    by("rates").setAttribute("aria-label", `Answers a second over 5 minutes; the last: ${names[0]} ${rate(one[last])}, ${names[1]} ${rate(two[last])}`);
    return [x, one, one.map((value, index) => value + two[index])]; // the large tier's on top
  };
  legend("rates-legend", names.map((name, index) => [ROLES[index], name]));
  const words = (plot, index) => {
    const [, one, both] = plot.data.map((column) => column[index]);
    return `${ago(plot, index)}\n${names[0]}  ${rate(one)}/s\n${names[1]}  ${rate(both - one)}/s`;
  };
  const options = {
    figures,
    scales: { x: { time: false, range: () => [-shown, 0] }, y: up(1) },
    axes: [MINUTES, { size: 44, values: (_, splits) => splits.map((value) => `${value}/s`), space: 36 }],
    series: [
      {},
      { stroke: small, width: 1.5, fill: colour("--small", 0.25), points: { show: false } },
      { stroke: large, width: 1.5, points: { show: false } },
    ],
    bands: [{ series: [2, 1], fill: colour("--large", 0.25) }],
  };
  return chart("rates", options, words, data);
}

function first(names, figures) {
  const order = ["p50", "p50", "p95", "p95"];
  let shown = width(figures);
  const data = (latest) => {
    shown = width(latest);
    const [x, , , ...known] = columns(latest, (column) => (column < 3 ? 0 : null));
    const each = ROLES.map((role, index) => `${names[index]} p50 ${seconds(latest.latency.first_byte[role]?.p50)}, p95 ${seconds(latest.latency.first_byte[role]?.p95)}`);
    by("first").setAttribute("aria-label", `Time to first token over 5 minutes: ${each.join("; ")}`);
    return [x, ...known];
  };
  legend("first-legend", [
    ...names.map((name, index) => [ROLES[index], `${name} p50`]),
    ...names.map((name, index) => [`dash ${ROLES[index]}`, `${name} p95`]),
  ]);
  const line = (role, dashed) => ({
    stroke: colour(`--${role}`), width: dashed ? 1 : 1.75, dash: dashed ? [5, 4] : undefined, spanGaps: false,
    points: { show: () => false, filter: lone, size: 5, fill: colour(`--${role}`) },
  });
  const words = (plot, index) => {
    const lines = order.map((name, at) => [plot.data[at + 1][index], `${names[at % 2]} ${name}`]).filter(([value]) => value !== null);
    return lines.length ? [ago(plot, index), ...lines.map(([value, what]) => `${what}  ${seconds(value)}`)].join("\n") : "";
  };
  const options = {
    figures,
    scales: { x: { time: false, range: () => [-shown, 0] }, y: up(0.01) },
    axes: [MINUTES, { size: 62, values: (_, splits) => splits.map((value) => (value ? seconds(value) : "0")), space: 36 }],
    series: [{}, line("small", false), line("large", false), line("small", true), line("large", true)],
  };
  return chart("first", options, words, data);
}

// Values between gaps, of which a line shows nothing.
function lone(plot, series) {
  const values = plot.data[series];
  const gap = (index) => values[index] === null || values[index] === undefined;
  return values.map((_, index) => index).filter((index) => !gap(index) && gap(index - 1) && gap(index + 1));
}

function scores(figures) {
  const bins = figures.scores.length;
  let threshold = figures.threshold;
  const middle = (index) => (index + 0.5) * (10 / bins);
  const data = (latest) => {
    threshold = latest.threshold;
    const below = latest.scores.map((value, index) => (middle(index) <= threshold ? value : null));
    const above = latest.scores.map((value, index) => (middle(index) > threshold ? value : null));
    const [simple, hard] = [below, above].map((side) => side.reduce((total, value) => total + (value ?? 0), 0));
    by("threshold").textContent = `threshold ${threshold.toFixed(2)}: ${count(simple)} up to it, ${count(hard)} above`;
    by("scores").setAttribute("aria-label", `Scores of prompts, 0 to 10: ${count(simple)} up to the threshold of ${threshold.toFixed(2)}, ${count(hard)} above`);
    return [latest.scores.map((_, index) => middle(index)), below, above];
  };
  const bars = uPlot.paths.bars({ size: [0.82, 60], radius: 0.12 });
  const bar = (role) => ({ paths: bars, fill: colour(`--${role}`), stroke: colour(`--${role}`), width: 0, points: { show: false } });
  const ink = colour("--text");
  const words = (plot, index) => {
    const half = 5 / bins;
    const at = plot.data[0][index];
    return `score ${at - half} to ${at + half}\n${count(plot.data[1][index] ?? plot.data[2][index] ?? 0)} prompts`;
  };
  const options = {
    figures,
    scales: { x: { time: false, range: () => [0, 10] }, y: up(4) },
    axes: [
      { size: 28, splits: () => [0, 2, 4, 6, 8, 10], values: (_, splits) => splits.map(String) },
      { size: 44, space: 34, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000], values: (_, splits) => splits.map(count) },
    ],
    series: [{}, bar("small"), bar("large")],
    hooks: { draw: [(plot) => mark(plot, threshold, ink)] },
  };
  return chart("scores", options, words, data);
}

// The threshold, from top to bottom.
function mark(plot, threshold, ink) {
  const { ctx, bbox } = plot;
  const x = Math.round(plot.valToPos(threshold, "x", true));
  const scale = devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = ink;
  ctx.lineWidth = 2 * scale;
  ctx.setLineDash([5 * scale, 4 * scale]);
  ctx.beginPath();
  ctx.moveTo(x, bbox.top);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
  ctx.font = `${12 * scale}px system-ui, sans-serif`;
  const right = threshold > 8;
  ctx.textAlign = right ? "right" : "left";
  ctx.textBaseline = "top";
  ctx.fillText("threshold", x + (right ? -6 : 6) * scale, bbox.top);
  ctx.restore();
}

function legend(id, entries) {
  by(id).replaceChildren(...entries.map(([kind, words]) => element("li", {}, element("i", { kind, "aria-hidden": "true" }), words)));
}
