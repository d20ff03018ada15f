#include "train/report_page.h"

namespace fathom::train {

const std::string_view kPageScript = R"page(
</script>
<script>
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const at = id => document.getElementById(id);
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const make = (tag, attributes = {}, text) => {
  const e = document.createElement(tag);
  for (const k in attributes) e.setAttribute(k, attributes[k]);
  if (text !== undefined) e.textContent = text;
  return e;
};
const svg = (tag, attributes = {}, text) => {
  const e = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const k in attributes) e.setAttribute(k, attributes[k]);
  if (text !== undefined) e.textContent = text;
  return e;
};

// ---- numbers as text
function short(v, digits = 4) {
  const a = Math.abs(v);
  if (a === 0) return '0';
  if (a >= 1e15 || a < 1e-3)
    return v.toExponential(Math.min(digits, 6) - 1).replace(/\.?0*e/, 'e').replace('e+', 'e');
  for (const [limit, letter] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']])
    if (a >= limit) return +(v / limit).toPrecision(digits) + letter;
  return String(+v.toPrecision(digits));
}
function exact(v) {
  const a = Math.abs(v);
  if (a !== 0 && (a >= 1e9 || a < 1e-3)) return v.toExponential(3);
  if (a >= 1000) return Math.round(v).toLocaleString('en');
  return String(+v.toPrecision(5));
}

// ---- header
at('name').textContent = data.name;
at('state').textContent = data.finished ? 'finished' : 'running';
at('state').classList.toggle('running', !data.finished);
const share = data.total_steps > 0 ? Math.min(1, data.step / data.total_steps) : 1;
at('bar').firstElementChild.style.width = 100 * share + '%';
at('bar').hidden = data.total_steps <= 0 || (data.finished && share === 1);
for (const [list, id] of [[data.headline, 'tiles'], [data.facts, 'facts']])
  for (const [name, value] of list) {
    const row = make('div');
    const [main, total] = id === 'tiles' ? value.split(' / ') : [value];
    const text = make('dd', {}, main);
    if (total) text.append(make('small', {}, ' of ' + total));
    row.append(make('dt', {}, name), text);
    at(id).append(row);
  }

// ---- tooltip
const tip = at('tip');
function showTip(x, y, title, rows) {
  tip.replaceChildren(make('b', {}, title));
  for (const [color, name, value] of rows) {
    const line = make('div');
    if (color) line.append(make('i', {style: 'background:' + color}));
    line.append(name + ' ' + value);
    tip.append(line);
  }
  const box = tip.getBoundingClientRect(), gap = 14;
  const left = x + gap + box.width < innerWidth ? x + gap : x - gap - box.width;
  tip.style.left = Math.max(4, Math.min(left, innerWidth - box.width - 4)) + 'px';
  tip.style.top = Math.max(4, Math.min(y + gap, innerHeight - box.height - 4)) + 'px';
  tip.style.visibility = 'visible';
}
const hideTip = () => { tip.style.visibility = 'hidden'; };

// ---- axes
function linearTicks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= rough * 0.999) || 10 * power;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-6); i * step <= high + step * 1e-6 && ticks.length < 20; i++)
    ticks.push(+(i * step).toPrecision(12));
  return ticks;
}
function logTicks(low, high, count) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const stride = Math.max(1, Math.ceil((last - first) / count));
  const factors = last - first <= 2 ? [1, 2, 3, 5, 7] : last - first <= 3 ? [1, 3] : [1];
  const ticks = [];
  for (let e = first; e <= last; e += stride)
    for (const f of factors) {
      const v = +(f * 10 ** e).toPrecision(6);
      if (v >= low * 0.999 && v <= high * 1.001) ticks.push(v);
    }
  return ticks.length >= 2 ? ticks : linearTicks(low, high, count);
}
const integerTicks = (low, high, count) => linearTicks(low, high, count).filter(Number.isInteger);

// ---- curves
const curves = Object.fromEntries(data.curves.map(c => [c.name, c]));
const redraws = [];
function chart(title, names, options = {}) {
  const series = names.filter(n => curves[n.key] && curves[n.key].raw[0].length > 0)
                      .map(n => ({...n, raw: curves[n.key].raw, smooth: curves[n.key].smooth}));
  if (series.length === 0 && options.optional) return;
  const card = make('div', {class: 'card' + (options.wide ? ' wide' : '')}), top = make('div', {class: 'top'});
  top.append(make('h2', {}, title));
  card.append(top);
  at('charts').append(card);
  if (series.length === 0) {
    card.append(make('div', {class: 'none'}, 'nothing measured yet'));
    return;
  }
  if (series.length > 1) {
    const keys = make('div', {class: 'keys'});
    for (const s of series) {
      const key = make('span');
      key.append(make('i', {style: `background:var(${s.color})`}), s.label);
      keys.append(key);
    }
    top.append(keys);
  }
  const state = {log: false, raw: true};
  const all = series.flatMap(s => s.raw[1]), tools = make('div', {class: 'tools'});
  const isPositive = all.every(v => v > 0);
  if (options.autoLog && isPositive) {
    const sorted = [...all].sort((a, b) => a - b);
    state.log = sorted[sorted.length - 1] > 50 * sorted[sorted.length >> 1];
  }
  const toggle = (label, field) => {
    const b = make('button', {type: 'button', 'aria-pressed': state[field]}, label);
    b.onclick = () => { state[field] = !state[field]; b.setAttribute('aria-pressed', state[field]); draw(); };
    tools.append(b);
  };
  if (series.some(s => s.smooth)) toggle('single steps', 'raw');
  if (isPositive && options.canLog) toggle('log', 'log');
  top.append(tools);
  const picture = svg('svg', {role: 'img', 'aria-label': title});
  card.append(picture);

  let view;
  function draw() {
    const width = Math.max(200, picture.clientWidth || card.clientWidth - 32), height = options.wide ? 300 : 190;
    picture.setAttribute('viewBox', `0 0 ${width} ${height}`);
    picture.style.height = height + 'px';
    picture.replaceChildren();
    const shown = series.flatMap(s => s.smooth && !state.raw ? s.smooth[1] : s.raw[1]);
    let low = Infinity, high = -Infinity;
    for (const v of shown) { low = Math.min(low, v); high = Math.max(high, v); }
    const scale = state.log ? Math.log : v => v / 2, back = state.log ? Math.exp : v => v * 2;
    let y0 = scale(low), y1 = scale(high);
    const isFlat = y1 - y0 <= 1e-9 * Math.max(Math.abs(y0), Math.abs(y1));
    const pad = isFlat ? Math.max(Math.abs(y0) * 0.1, state.log ? 0.1 : 1e-12) : (y1 - y0) * 0.06;
    y0 -= pad; y1 += pad;
    if (!state.log && low >= 0 && (y0 < 0 || low < 0.2 * high)) y0 = 0;
    let x0 = Infinity, x1 = -Infinity;
    for (const s of series) { x0 = Math.min(x0, s.raw[0][0]); x1 = Math.max(x1, s.raw[0][s.raw[0].length - 1]); }
    if (x0 === x1) { x0 -= 1; x1 += 1; }

    const bottom = 24, above = 8, right = 10;
    const ticks = state.log ? logTicks(back(y0), back(y1), 6)
                            : linearTicks(back(y0), back(y1), options.wide ? 5 : 4);
    const label = [2, 3, 4, 6].map(digits => t => short(t, digits))
                              .find(f => new Set(ticks.map(f)).size === ticks.length) || exact;
    const left = 14 + 6.4 * Math.max(2, ...ticks.map(t => label(t).length));
    const px = x => left + (x - x0) / (x1 - x0) * (width - left - right);
    const py = v => above + (y1 - scale(v)) / (y1 - y0) * (height - above - bottom);
    let last = Infinity;
    for (const t of ticks) {
      const y = py(t);
      if (y < above - 1 || y > height - bottom + 1 || last - y < 13) continue;
      last = y;
      picture.append(svg('line', {x1: left, x2: width - right, y1: y, y2: y, stroke: 'var(--grid)'}));
      picture.append(svg('text', {x: left - 8, y: y + 4, 'text-anchor': 'end'}, label(t)));
    }
    for (const t of integerTicks(x0, x1, Math.max(3, Math.floor(width / 70)))) {
      if (t < 0) continue;
      picture.append(svg('text', {x: Math.min(px(t), width - right - 4), y: height - 6, 'text-anchor': 'middle'},
                         short(t)));
    }
    picture.append(svg('line', {x1: left, x2: width - right, y1: height - bottom, y2: height - bottom,
                                stroke: 'var(--line)'}));
    if (options.bad)
      for (const step of data.bad_steps)
        picture.append(svg('line', {x1: px(step), x2: px(step), y1: height - bottom - 7, y2: height - bottom,
                                    stroke: 'var(--bad)', 'stroke-width': 1.5}));
    const line = (points, color, opacity, strokeWidth) => {
      let path = '';
      for (let i = 0; i < points[0].length; i++)
        path += (i ? 'L' : 'M') + px(points[0][i]).toFixed(1) + ' ' + py(points[1][i]).toFixed(1);
      picture.append(svg('path', {d: path, fill: 'none', stroke: `var(${color})`, 'stroke-width': strokeWidth,
                                  'stroke-opacity': opacity, 'stroke-linejoin': 'round'}));
    };
    for (const s of series) if (s.smooth && state.raw) line(s.raw, s.color, 0.3, 1);
    for (const s of series) {
      line(s.smooth || s.raw, s.color, 1, 1.8);
      if (s.raw[0].length <= (s.dots ? 60 : 30) && !s.smooth)
        for (let i = 0; i < s.raw[0].length; i++)
          picture.append(svg('circle', {cx: px(s.raw[0][i]), cy: py(s.raw[1][i]), r: 2.6, fill: `var(${s.color})`}));
    }
    const cursor = svg('line', {y1: above, y2: height - bottom, stroke: 'var(--muted)', 'stroke-dasharray': '3 3',
                                visibility: 'hidden'});
    picture.append(cursor);
    view = {left, right, width, x0, x1, px, cursor};
  }
  const nearest = (steps, step) => {
    let a = 0, b = steps.length - 1;
    while (b - a > 1) { const m = (a + b) >> 1; if (steps[m] <= step) a = m; else b = m; }
    return Math.abs(steps[a] - step) <= Math.abs(steps[b] - step) ? a : b;
  };
  const move = event => {
    const box = picture.getBoundingClientRect(), x = event.clientX - box.left, v = view;
    const wanted = v.x0 + (x - v.left) / (v.width - v.left - v.right) * (v.x1 - v.x0);
    const main = series.reduce((a, b) => a.raw[0].length >= b.raw[0].length ? a : b).raw[0];
    const step = main[nearest(main, wanted)];
    const rows = series.map(s => {
      const i = nearest(s.raw[0], step), off = s.raw[0][i] !== step ? ` (step ${exact(s.raw[0][i])})` : '';
      let text = exact(s.raw[1][i]);
      if (s.smooth) text += ', mean ' + exact(s.smooth[1][nearest(s.smooth[0], step)]);
      return [series.length > 1 ? `var(${s.color})` : '', series.length > 1 ? s.label : '', text + off];
    });
    v.cursor.setAttribute('x1', v.px(step));
    v.cursor.setAttribute('x2', v.px(step));
    v.cursor.setAttribute('visibility', 'visible');
    showTip(event.clientX, event.clientY, 'step ' + exact(step), rows);
  };
  picture.addEventListener('pointermove', move);
  picture.addEventListener('pointerdown', move);
  picture.addEventListener('pointerleave', () => { view.cursor.setAttribute('visibility', 'hidden'); hideTip(); });
  redraws.push(draw);
  if (options.bad && data.bad_steps.length > 0)
    card.append(make('p', {class: 'note'}, data.bad_steps.length +
        (data.bad_steps.length === 1 ? ' step' : ' steps') + ' without a finite loss, marked in red on the axis.'));
}
chart('Loss', [{key: 'loss', label: 'training', color: '--loss'}, {key: 'mtp_loss', label: 'MTP', color: '--mtp'},
               {key: 'eval_loss', label: 'held-out', color: '--eval', dots: true}],
      {wide: true, canLog: true, autoLog: true, bad: true});
chart('Gradient norm', [{key: 'grad_norm', color: '--accent'}], {canLog: true, autoLog: true});
chart('Learning rate', [{key: 'lr', color: '--accent'}], {canLog: true});
chart('Tokens per second', [{key: 'tokens_per_second', color: '--accent'}]);
chart('MaxVio', [{key: 'max_violation', color: '--accent'}],
      {canLog: true, optional: true});
chart('Sequence-wise balance loss', [{key: 'balance_loss', color: '--accent'}], {canLog: true, optional: true});

// ---- expert loads: codes of 254 load / (1 + load), 255 where not measured
function heatMap(canvas, columns, rows, loadAt, columnLabel, rowLabel, titleAt, most) {
  const width = canvas.clientWidth, ratio = devicePixelRatio || 1;
  const cell = Math.max(most.least, Math.min(most.row, most.height / rows)), bottom = 20;
  const above = cell < 13 ? 7 : 0;  // half of the first row's label
  const left = 12 + 6.4 * Math.max(...[0, rows - 1].map(r => rowLabel(r).length)), height = above + cell * rows + bottom;
  canvas.style.height = height + 'px';
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext('2d');
  pen.scale(ratio, ratio);
  const [low, mid, high] = ['--low', '--mid', '--high'].map(n => css(n).split(',').map(Number));
  const color = load => {
    if (load === null) return 'transparent';
    const t = Math.max(-1, Math.min(1, Math.log2(Math.max(load, 1e-6)) / 2)), end = t < 0 ? low : high, a = Math.abs(t);
    return `rgb(${mid.map((m, i) => Math.round(m + (end[i] - m) * a)).join(',')})`;
  };
  const w = (width - left) / columns, gap = w > 8 && cell > 8 ? 1 : 0;
  // Edges on whole device pixels: no seams between cells.
  const edge = (start, size, i) => Math.round((start + i * size) * ratio) / ratio;
  const isLabelled = w >= 40 && cell >= 15;
  pen.font = '11px system-ui, sans-serif';
  pen.textBaseline = 'middle';
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) {
      const load = loadAt(c, r), x0 = edge(left, w, c), y0 = edge(above, cell, r);
      const x1 = edge(left, w, c + 1) - gap, y1 = edge(above, cell, r + 1) - gap;
      pen.fillStyle = color(load);
      pen.fillRect(x0, y0, x1 - x0, y1 - y0);
      if (isLabelled && load !== null) {
        pen.fillStyle = Math.abs(Math.log2(Math.max(load, 1e-6))) > 1.2 ? '#fff' : css('--text');
        pen.textAlign = 'center';
        pen.fillText(load.toFixed(2), (x0 + x1) / 2, (y0 + y1) / 2);
      }
    }
  pen.fillStyle = css('--muted');
  pen.textAlign = 'right';
  const every = Math.max(1, Math.ceil(13 / cell));
  for (let r = 0; r < rows; r += every) pen.fillText(rowLabel(r), left - 7, above + (r + 0.5) * cell);
  const widest = 14 + 6.4 * Math.max(columnLabel(0).length, columnLabel(columns - 1).length);
  const stride = Math.max(1, Math.ceil(widest / w));
  for (let c = 0; c < columns; c += stride) {
    const text = columnLabel(c), half = pen.measureText(text).width / 2;
    const x = Math.min(Math.max(left + (c + 0.5) * w, left + half), width - half);
    pen.textAlign = 'center';
    pen.fillText(text, x, height - 9);
  }
  const move = event => {
    const box = canvas.getBoundingClientRect();
    const c = Math.floor((event.clientX - box.left - left) / w), r = Math.floor((event.clientY - box.top - above) / cell);
    if (c < 0 || c >= columns || r < 0 || r >= rows) { hideTip(); return; }
    const load = loadAt(c, r);
    showTip(event.clientX, event.clientY, titleAt(c, r), [['', 'load', load === null ? 'not measured' : load.toFixed(2)]]);
  };
  canvas.onpointermove = canvas.onpointerdown = move;
  canvas.onpointerleave = hideTip;
}
if (data.loads) {
  const {layers, experts, steps} = data.loads, raw = atob(data.loads.codes);
  const load = (step, layer, expert) => {
    const code = raw.charCodeAt((step * layers.length + layer) * experts + expert);
    return code === 255 ? null : code / Math.max(1, 254 - code);
  };
  at('loads').hidden = false;
  const slider = at('load-step'), select = at('load-layer');
  slider.max = steps.length - 1;
  slider.value = steps.length - 1;
  slider.hidden = steps.length < 2;
  layers.forEach((layer, i) => select.append(make('option', {value: i}, layer)));
  const drawLayers = () => {
    const s = +slider.value;
    at('load-step-text').textContent = exact(steps[s]);
    heatMap(at('load-layers'), experts, layers.length, (c, r) => load(s, r, c), c => String(c),
            r => 'layer ' + layers[r], (c, r) => `layer ${layers[r]}, expert ${c}`, {height: 460, row: 24, least: 7});
  };
  const drawTime = () => {
    const l = +select.value;
    heatMap(at('load-time'), steps.length, experts, (c, r) => load(c, l, r), c => short(steps[c]),
            r => 'expert ' + r, (c, r) => `step ${exact(steps[c])}, expert ${r}`, {height: 380, row: 22, least: 1.5});
  };
  slider.oninput = drawLayers;
  select.onchange = drawTime;
  redraws.push(drawLayers, drawTime);
}
const redraw = () => { hideTip(); for (const draw of redraws) draw(); };
redraw();
let pending = 0;
addEventListener('resize', () => { cancelAnimationFrame(pending); pending = requestAnimationFrame(redraw); });
addEventListener('scroll', hideTip, {passive: true});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
</script>
</body>
</html>
)page";

}  // namespace fathom::train
