// Plots, as SVG elements.

import { el, money, svg } from './dom.js';

const HEIGHT = 132;
const LEFT = 48;
const BOTTOM = 20;
const TOP = 8;

/** An element that draws itself for its width. `draw(width)` returns the plot. */
function sized(draw) {
  const node = el('div', { class: 'plot' });
  let last = 0;
  new ResizeObserver(([{ contentRect }]) => {
    const width = Math.floor(contentRect.width);
    if (width < 40 || width === last) return;
    last = width;
    node.replaceChildren(draw(width));
  }).observe(node);
  return node;
}

/** Steps of 1, 2 or 5 that divide the axis into at most four parts. */
function ticks(most) {
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const found = [];
  for (let value = 0; value <= most * 1.0001; value += step) found.push(value);
  return { found, step };
}

function frame(width, most, label) {
  const { found, step } = ticks(most);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / most);
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const plot = svg('svg', { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: 'img', 'aria-label': label });
  for (const value of found) {
    plot.append(svg('line', { class: 'plot-grid', x1: LEFT, x2: width, y1: y(value), y2: y(value) }),
      svg('text', { class: 'plot-text', x: LEFT - 6, y: y(value) + 4, 'text-anchor': 'end' }, `$${value.toFixed(digits)}`));
  }
  return { plot, y };
}

function under(plot, x, width, text) {
  const anchor = x < LEFT + 40 ? 'start' : x > width - 40 ? 'end' : 'middle';
  plot.append(svg('text', { class: 'plot-text', x, y: HEIGHT - 5, 'text-anchor': anchor }, text));
}

/** Bars for the cost of each day. */
export function dayPlot(days) {
  const all = filled(days);
  const sum = all.reduce((total, one) => total + one.cost_usd, 0);
  const most = Math.max(0.01, ...all.map((one) => one.cost_usd));
  const top = all.find((one) => one.cost_usd === most);
  const label = `Cost per day from ${all[0].day} to ${all.at(-1).day}: ${money(sum)} in all${top ? `, most on ${top.day} with ${money(most)}` : ''}`;
  return sized((width) => {
    const { plot, y } = frame(width, most, label);
    const step = (width - LEFT) / all.length;
    all.forEach((one, index) => {
      const x = LEFT + index * step;
      const bar = svg('rect', {
        class: 'plot-bar', x: x + Math.min(2, step / 8), width: Math.max(1, step - Math.min(4, step / 4)),
        y: y(one.cost_usd), height: Math.max(0, y(0) - y(one.cost_usd)),
      }, svg('title', {}, `${one.day}: ${money(one.cost_usd)}, ${one.turns} turns`));
      plot.append(bar);
    });
    under(plot, LEFT, width, all[0].day);
    if (all.length > 1) under(plot, width, width, all.at(-1).day);
    return plot;
  });
}

/** The last 60 days, including those without turns. */
function filled(days) {
  const known = new Map(days.map((one) => [one.day, one]));
  const last = Date.parse(`${days.at(-1).day}T00:00:00Z`);
  const first = Math.max(Date.parse(`${days[0].day}T00:00:00Z`), last - 59 * 86400000);
  const all = [];
  for (let at = first; at <= last; at += 86400000) {
    const day = new Date(at).toISOString().slice(0, 10);
    all.push(known.get(day) ?? { day, cost_usd: 0, turns: 0 });
  }
  return all;
}

/** The sum of the costs of turns over time, as steps. */
export function costPlot(turns) {
  let sum = 0;
  const points = turns.map((turn) => {
    sum += turn.cost_usd;
    return { at: Date.parse(turn.ended), sum, turn };
  });
  const first = Date.parse(turns[0].started);
  const last = Math.max(first + 1, points.at(-1).at);
  const label = `Cost over time: ${money(sum)} in ${turns.length} turns`;
  return sized((width) => {
    const { plot, y } = frame(width, Math.max(0.01, sum), label);
    const x = (at) => LEFT + 3 + (width - LEFT - 8) * ((at - first) / (last - first));
    let line = `M${x(first)},${y(0)}`;
    for (const { at, sum: height } of points) line += `H${x(at).toFixed(1)}V${y(height).toFixed(1)}`;
    plot.append(svg('path', { class: 'plot-area', d: `${line}V${y(0)}Z` }), svg('path', { class: 'plot-line', d: line }));
    if (points.length <= 200) {
      for (const { at, sum: height, turn } of points) {
        plot.append(svg('circle', { class: 'plot-dot', cx: x(at).toFixed(1), cy: y(height).toFixed(1), r: 3 },
          svg('title', {}, `${turn.verdict}, ${turn.ended}: ${money(turn.cost_usd)}, ${money(height)} in all`)));
      }
    }
    under(plot, LEFT, width, turns[0].started.slice(0, 10));
    if (turns[0].started.slice(0, 10) !== turns.at(-1).ended.slice(0, 10)) under(plot, width, width, turns.at(-1).ended.slice(0, 10));
    return plot;
  });
}
