/* the circuit at work, and over training (docs/player.md). Only functions, as in heads.js: app.js calls circuit(figure, widget). */
const STAGES = {ppt: "pre-pre-training", pt: "language", ft: "fine-tuning", "": "training"};
const FEW = 5;
const svg = (tag, attributes, ...children) => {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const name in attributes) e.setAttribute(name, attributes[name]);
  e.append(...children);
  return e;
};
const share = value => value > 0 && value < 0.005 ? "under 1 %" : `${Math.round(100 * value)} %`;
const amount = value => Math.abs(value) >= 999.5e3 ? `${plainly(value / 1e6, 2)} M` : Math.abs(value) >= 9999.5 ? `${Math.round(value / 1e3)} k` : plainly(value, 0);

/* bytes: zlib in base64; of checkpoints the differences from one to the next */
const bytesOf = text => { const raw = atob(text), bytes = new Uint8Array(raw.length); for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i); return bytes; };
async function inflate(text) {
  const bytes = bytesOf(text);
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
}
function summed(bytes, n) {
  const size = bytes.length / n;
  for (let i = size; i < bytes.length; i++) bytes[i] = (bytes[i] + bytes[i - size]) & 255;
  return bytes;
}
function kept(stage, key, load) {
  stage.cache ??= {};
  return stage.cache[key] ??= load();
}
const array = (stage, name) => stage[name] ? kept(stage, name, () => inflate(stage[name])) : Promise.resolve(null);
const mapOf = (stage, probe) => stage.maps[probe] ? kept(stage, `map ${probe}`, () => inflate(stage.maps[probe])) : Promise.resolve(null);
/* attention of a head at checkpoint i, or at the last one before it whose pattern is in the page */
async function patternOf(stage, head, i) {
  const found = stage.patterns[head];
  if (!found) return null;
  const bytes = await kept(stage, `pattern ${head}`, () => inflate(found.data).then(b => found.changed ? summed(b, found.at.length) : b));
  const place = found.at.filter(a => a <= i).length - 1, size = bytes.length / found.at.length;
  if (place < 0) return null;
  const codes = bytes.subarray(place * size, (place + 1) * size);
  /* weights in coarse levels, and the share of attention on what a query is meant to look at, which was summed before they were rounded */
  const n = stage.sequence.tokens.length, after = n * (n + 1) / 2;
  return {at: found.at[place], weight: (q, k) => Math.min(1, (8 * codes[q * (q + 1) / 2 + k] / 255) ** 2), focus: q => codes[after + q] / 255};
}

/* what the sequence says of a query: on a grid the patch that comes next and its causes, in a text what followed earlier occurrences */
function geometry(s) {
  const per = s.rows * s.columns + 2, patches = s.rows * s.columns;
  const place = p => ({frame: Math.floor((p - s.start) / per), patch: (p - s.start) % per - 1});
  const causes = query => {
    const {frame, patch} = place(query + 1);
    if (frame < 1 || patch < 0 || patch >= patches) return [];
    const [r, c] = [Math.floor(patch / s.columns), patch % s.columns], found = new Set();
    for (let dr = -s.reach; dr <= s.reach; dr++) for (let dc = -s.reach; dc <= s.reach; dc++) found.add(((r + dr + s.rows) % s.rows) * s.columns + (c + dc + s.columns) % s.columns);
    return [...found].map(p => s.start + (frame - 1) * per + 1 + p);
  };
  const digits = token => Array.from({length: s.patch ** 2}, (_, i) => Math.floor(token / s.states ** i) % s.states);
  return {per, patches, place, causes, digits};
}
function followers(tokens, query) {
  const found = [];
  for (let k = 1; k <= query; k++) if (tokens[k - 1] === tokens[query] && k - 1 < query) found.push(k);
  return found;
}

/* small line charts, of the same height everywhere; lines: [{points: [[x, y]], color, dash, width}] */
function chart(box, {x, y, lines, dot, band, format, swap, said}) {
  const [w, h, left, bottom, top] = [box.clientWidth || 170, 104, 32, 17, 8];
  const px = v => left + (v - x[0]) / ((x[1] - x[0]) || 1) * (w - left - 8), py = v => h - bottom - (v - y[0]) / ((y[1] - y[0]) || 1) * (h - bottom - top);
  const text = (tx, ty, words, anchor = "end") => svg("text", {x: tx, y: ty, "text-anchor": anchor}, words);
  const path = points => points.map(([a, b], i) => `${i ? "L" : "M"}${px(a).toFixed(1)} ${py(b).toFixed(1)}`).join("");
  const parts = y.map(v => svg("path", {d: `M${left} ${py(v)}H${w - 8}`, class: "rule"}));
  if (y[0] < 0 && y[1] > 0) parts.push(svg("path", {d: `M${left} ${py(0)}H${w - 8}`, class: "rule zero"}));
  if (swap !== undefined && swap > x[0] && swap < x[1]) parts.push(svg("path", {d: `M${px(swap)} ${top}V${h - bottom}`, class: "rule swap"}));
  if (band?.length) parts.push(svg("path", {d: `${path(band.map(b => [b[0], b[1]]))}L${path(band.map(b => [b[0], b[2]]).reverse()).slice(1)}Z`, fill: lines[0]?.color ?? "currentColor", opacity: 0.16}));
  for (const line of lines) parts.push(svg("path", {d: path(line.points), fill: "none", stroke: line.color, "stroke-width": line.width ?? 2, "stroke-dasharray": line.dash ?? "none"}));
  for (const line of lines) if (line.points.length === 1) parts.push(svg("circle", {cx: px(line.points[0][0]), cy: py(line.points[0][1]), r: 2.5, fill: line.color}));
  if (dot) parts.push(svg("path", {d: `M${px(dot[0])} ${top}V${h - bottom}`, class: "now"}), ...(dot[1] === null || dot[1] === undefined ? [] : [svg("circle", {cx: px(dot[0]), cy: py(dot[1]), r: 4.5, fill: dot[2], class: "dot"})]));
  parts.push(text(left - 4, py(y[1]) + 4, format(y[1])), text(left - 4, py(y[0]) + 2, format(y[0])), text(left, h - 3, said[0], "start"), text(w - 8, h - 3, said[1]));
  box.replaceChildren(svg("svg", {viewBox: `0 0 ${w} ${h}`, "aria-hidden": "true"}, ...parts));
}
const extent = (values, pad = 0.06) => { const known = values.filter(v => v !== null && v !== undefined), [a, b] = [Math.min(...known), Math.max(...known)]; return known.length ? [a - pad * (b - a || 1), b + pad * (b - a || 1)] : [0, 1]; };

/* a canvas as sharp as the screen; returns its context in CSS pixels */
function sharp(canvas, width, height) {
  const ratio = devicePixelRatio || 1, context = canvas.getContext("2d");
  canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}
const mix = (a, b, t) => `#${[1, 3, 5].map(k => Math.round(parseInt(a.slice(k, k + 2), 16) * (1 - t) + parseInt(b.slice(k, k + 2), 16) * t).toString(16).padStart(2, "0")).join("")}`;
const inks = () => ({...data.themes[theme()], low: theme() === "dark" ? "#262c33" : "#f3f5f7", high: theme() === "dark" ? "#aab1bb" : "#6d757f", even: theme() === "dark" ? "#666d77" : "#b2b8bf"});

/* frames of a grid: cells, attention over them, outlines */
function painter(context, s, g, ink) {
  const unit = (size, n) => size / n;
  const cells = (x, y, size, frame, colour) => {
    const n = s.rows * s.patch, u = unit(size, n);
    for (let r = 0; r < n; r++) for (let c = 0; c < n; c++) {
      const fill = colour(frame, r, c);
      if (fill) { context.fillStyle = fill; context.fillRect(x + c * u, y + r * u, u + 0.3, u + 0.3); }
    }
  };
  const patch = (x, y, size, p) => { const u = unit(size, s.columns); return [x + p % s.columns * u, y + Math.floor(p / s.columns) * u, u, u]; };
  const outline = (x, y, size, set, colour, width) => {
    const u = unit(size, s.columns), has = (r, c) => r >= 0 && c >= 0 && r < s.rows && c < s.columns && set.includes(r * s.columns + c);
    context.strokeStyle = colour; context.lineWidth = width; context.lineCap = "square";
    context.beginPath();
    for (const p of set) {
      const [r, c] = [Math.floor(p / s.columns), p % s.columns], [a, b] = [x + c * u, y + r * u];
      if (!has(r - 1, c)) { context.moveTo(a, b); context.lineTo(a + u, b); }
      if (!has(r + 1, c)) { context.moveTo(a, b + u); context.lineTo(a + u, b + u); }
      if (!has(r, c - 1)) { context.moveTo(a, b); context.lineTo(a, b + u); }
      if (!has(r, c + 1)) { context.moveTo(a + u, b); context.lineTo(a + u, b + u); }
    }
    context.stroke();
  };
  const frame = (x, y, size) => { context.strokeStyle = ink.grid; context.lineWidth = 1; context.strokeRect(x - 0.5, y - 0.5, size + 1, size + 1); };
  const state = (f, r, c) => g.digits(s.tokens[s.start + f * g.per + 1 + Math.floor(r / s.patch) * s.columns + Math.floor(c / s.patch)])[r % s.patch * s.patch + c % s.patch];
  const grey = v => mix(ink.low, ink.high, v / Math.max(1, s.states - 1));
  return {cells, patch, outline, frame, state, grey};
}

/* one model at one checkpoint: selectors, the scene, small charts, a sentence */
function circuitPane(widget, side, changed, moved) {
  const root = make("section", undefined, "pane"), pane = {root, model: widget.models[side], head: null, probe: null};
  const picks = Object.fromEntries([["model", widget.study ? "Regime" : "Model"], ["head", "Head"], ["probe", "Map of"]].map(([name, words]) => { const select = make("select"), label = make("label", `${words} `); label.append(select); return [name, {select, label}]; }));
  const bar = make("div", undefined, "choices"), when = make("p", undefined, "when"), scene = make("div", undefined, "scene"), small = make("div", undefined, "smalls"), sentence = make("p", undefined, "told");
  const tile = (title, body) => { const box = make("div"), head = make("h4", title), value = make("span", "", "value"); head.append(" ", value); box.append(head, body); small.append(box); return {box, head, value, body}; };
  const looks = make("canvas"), written = make("canvas"), strip = make("p", undefined, "strip"), facts = make("dl", undefined, "reading-list"), next = make("div", undefined, "next");
  const map = tile("Heads", make("canvas")), pattern = tile("Its pattern", make("canvas")), loss = tile("Validation loss", make("div")), effect = tile("Loss without it, nats", make("div")), rule = tile("Cells predicted, by frame", make("div"));
  const below = make("div", undefined, "below"), none = make("p", undefined, "absent");
  below.append(written, next, facts);
  scene.append(looks, strip, below);
  root.setAttribute("aria-label", side ? "Right model" : "Left model");
  bar.append(picks.model.label, picks.head.label);
  map.head.replaceChildren(picks.probe.select, " ", map.value);
  picks.probe.select.setAttribute("aria-label", "Probe of the map of heads");
  root.append(bar, when, none, scene, sentence, small);
  for (const canvas of [looks, strip]) canvas.tabIndex = 0;
  for (const canvas of [looks, written, pattern.body]) canvas.setAttribute("role", "img");
  offer(picks.model.select, widget.models.map((m, i) => [String(i), m.label === m.name || !m.label ? m.name : `${m.name}: ${m.label}`]), String(side));
  let ticket = 0, now = null;

  const color = () => data.themes[theme()].pal[pane.model.slot];
  const places = () => {
    const all_ = new Set(pane.model.stages.flatMap(s => Object.keys(s.patterns)));
    if (pane.head) all_.add(pane.head);
    return [...all_].sort((a, b) => { const [[p, q], [r, s]] = [a.split("."), b.split(".")]; return p - r || q - s; });
  };
  const named = head => headName(...head.split("."));
  const best = async (stage, probe) => {
    const codes = await mapOf(stage, probe), size = stage.shape[0] * stage.shape[1];
    if (!codes) {
      /* no probe was measured: the head that looks most where it is meant to */
      const totals = await Promise.all(Object.keys(stage.patterns).map(async head => { const w = await patternOf(stage, head, stage.steps.length - 1); return [stage.sequence.tokens.reduce((sum, _, q) => sum + w.focus(q), 0), head]; }));
      return totals.sort((a, b) => b[0] - a[0])[0]?.[1] ?? "0.0";
    }
    const last = [...codes.subarray(codes.length - size)], ranked = last.map((c, i) => [c === 255 ? -1 : c, headPlace(Math.floor(i / stage.shape[1]), i % stage.shape[1])]).sort((a, b) => b[0] - a[0]);
    return (ranked.find(([, place]) => stage.patterns[place]) ?? ranked[0])[1];
  };
  pane.choose = async (model, stage) => {
    pane.model = model;
    picks.model.select.value = String(widget.models.indexOf(model));
    const first = stage ?? model.stages[model.stages.length - 1];
    pane.probe = pane.head = null;
    if (!first) return;
    const offered = Object.keys(widget.probes).filter(p => model.stages.some(s => s.maps[p]));
    pane.probe = (first.sequence.kind === "grid" ? ["nca_stencil"] : ["induction"]).find(p => offered.includes(p)) ?? offered[0] ?? null;
    pane.head = await best(first, pane.probe);
    offer(picks.probe.select, offered.map(p => [p, p.replaceAll("_", " ")]), pane.probe);
    offer(picks.head.select, places().map(h => [h, named(h)]), pane.head);
  };
  pane.setHead = head => { pane.head = head; offer(picks.head.select, places().map(h => [h, named(h)]), head); changed(); };
  picks.model.select.addEventListener("change", () => changed(widget.models[Number(picks.model.select.value)]));
  picks.head.select.addEventListener("change", () => pane.setHead(picks.head.select.value));
  picks.probe.select.addEventListener("change", () => { pane.probe = picks.probe.select.value; changed(); });

  /* draws a checkpoint ({stage, i, late} or null) at a query; resolves to the sentence of what is seen */
  pane.render = async (spot, token, why) => {
    const own = ++ticket;
    none.hidden = Boolean(spot); scene.hidden = small.hidden = sentence.hidden = !spot; picks.head.label.hidden = !pane.head;
    if (!spot) { none.textContent = why; when.textContent = ""; now = null; return why; }
    const {stage, i} = spot, grid = stage.sequence.kind === "grid";
    const [weights, codes, truth, sure, top, cells, certain] = await Promise.all([patternOf(stage, pane.head, i), mapOf(stage, pane.probe), ...["truth", "sure", "top", "cells", "cells_sure"].map(name => array(stage, name))]);
    if (own !== ticket) return "";
    const n = stage.sequence.tokens.length, query = Math.min(token, n - 2);
    now = {stage, i, query, weights, codes, truth, sure, top, cells, certain, grid, late: spot.late};
    const tokens = stage.tokens[i];
    when.textContent = `${STAGES[stage.stage] ?? stage.stage}${stage.steps.length > 1 || widget.study ? `, step ${stage.steps[i]}` : ""}${tokens === null ? "" : `, ${amount(tokens)} tokens`}${spot.late ? " (its last checkpoint before this point)" : ""}`;
    looks.hidden = written.hidden = !grid; strip.hidden = next.hidden = grid;
    const seen = grid ? paintGrid() : paintText();
    paintMap(); paintPattern(); lines(spot);
    root.dataset.shown = `${pane.model.name}/${stage.stage}/${stage.steps[i]}/${pane.head}/${query}`;
    sentence.textContent = seen;
    return `${pane.model.name}: ${seen}`;
  };
  const tell = pairs => facts.replaceChildren(...pairs.flatMap(([term, value]) => { const box = make("div"); box.append(make("dt", term), make("dd", value)); return [box]; }));
  const lacking = () => `The pattern of ${named(pane.head)} is not in this page${now.stage.patterns[pane.head] ? " at this checkpoint, at its last it is" : ""}.`;
  const older = () => now.weights && now.weights.at !== now.i ? ` (its pattern at step ${now.stage.steps[now.weights.at]}, the nearest that the page holds)` : "";

  function paintGrid() {
    const {stage, i, query, weights} = now, s = stage.sequence, g = geometry(s), ink = inks(), at = g.place(query + 1), causes = g.causes(query);
    const width = scene.clientWidth || 320, first = Math.max(0, Math.min(at.frame, s.frames - 1) - FEW + 1), shown = Array.from({length: Math.min(FEW, s.frames)}, (_, k) => first + k);
    const gap = 9, size = Math.min(132, (width - gap * (FEW - 1)) / FEW), context = sharp(looks, width, size + 30), p = painter(context, s, g, ink), orange = ink.pal[2];
    const glow = (rectangle, w) => { if (w > 0.0005) { context.globalAlpha = Math.sqrt(w); context.fillStyle = orange; context.fillRect(...rectangle); context.globalAlpha = 1; } };
    context.font = "11px system-ui, sans-serif"; context.textBaseline = "top";
    shown.forEach((f, k) => {
      const [x, y] = [k * (size + gap) + 1, 7], from = s.start + f * g.per;
      p.cells(x, y, size - 2, f, (_, r, c) => from + 1 + Math.floor(r / s.patch) * s.columns + Math.floor(c / s.patch) <= query ? p.grey(p.state(f, r, c)) : null);
      p.frame(x, y, size - 2);
      if (weights) {
        for (let patch = 0; patch < g.patches; patch++) if (from + 1 + patch <= query) glow(p.patch(x, y, size - 2, patch), weights.weight(query, from + 1 + patch));
        /* the delimiters of a frame: bars above and below it */
        if (from <= query) glow([x, y - 6, size - 2, 4], weights.weight(query, from));
        if (from + g.per - 1 <= query) glow([x, y + size, size - 2, 4], weights.weight(query, from + g.per - 1));
      }
      if (f === at.frame - 1 && causes.length) p.outline(x, y, size - 2, causes.map(key => key - from - 1), ink.pal[1], 2);
      if (f === at.frame && at.patch >= 0 && at.patch < g.patches) p.outline(x, y, size - 2, [at.patch], ink.pal[4], 2);
      context.fillStyle = ink.mut;
      context.fillText(`frame ${f}`, x, size + 13);
    });
    const right = paintWritten(s, g, at, ink, width), aim = at.patch < 0 || at.patch >= g.patches ? null : `row ${Math.floor(at.patch / s.columns) + 1}, column ${at.patch % s.columns + 1} of frame ${at.frame}`;
    const on = weights && causes.length ? weights.focus(query) : null, chance = causes.length / (query + 1), likely = now.truth[i * (s.tokens.length - 1) + query] / 255;
    tell([["attention on what the rule reads", on === null ? "–" : share(on)], ["if it looked everywhere alike", causes.length ? share(chance) : "–"], ["probability of what comes", likely.toFixed(2)], ["cells of this frame predicted", right === null ? "–" : share(right)]]);
    looks.setAttribute("aria-label", `Frames ${shown[0]} to ${shown[shown.length - 1]} with the attention of ${named(pane.head)}. Left and right arrow: token; up and down: frame.`);
    written.setAttribute("aria-label", "The frame as it happens, and as the model predicts it");
    const doing = aim ? `about to write ${aim}` : at.patch < 0 ? `at the start of frame ${at.frame}` : `at the end of frame ${at.frame}`;
    if (!weights) return `${lacking()} The model is ${doing}.`;
    const said = on === null ? `${named(pane.head)} looks back${causes.length ? "" : "; no earlier frame decides what comes"}` : `${named(pane.head)} puts ${share(on)} of its attention on the ${causes.length} patches that the rule reads (${share(chance)} if it looked everywhere alike)`;
    return `${doing[0].toUpperCase()}${doing.slice(1)}, ${said}${older()}. The model gives what comes a probability of ${likely.toFixed(2)}${right === null ? "" : `; ${share(right)} of the cells of this frame are predicted`}.`;
  }
  /* the frame as it happens beside the frame as predicted, each cell from the place before its patch */
  function paintWritten(s, g, at, ink, width) {
    const size = Math.min(150, (Math.min(width, 340) - 14) / 2), context = sharp(written, size * 2 + 16, size + 20), p = painter(context, s, g, ink), n = s.rows * s.patch, frame = Math.min(at.frame, s.frames - 1);
    written.style.width = `${size * 2 + 16}px`;
    const cell = (bytes, r, c) => bytes[((now.i * s.frames + frame) * n + r) * n + c];
    let wrong = 0;
    context.font = "11px system-ui, sans-serif"; context.textBaseline = "top";
    p.cells(1, 1, size - 2, frame, (f, r, c) => p.grey(p.state(f, r, c)));
    p.frame(1, 1, size - 2);
    const x = size + 14;
    if (frame > 0) {
      const u = (size - 2) / n, floor = 1 / s.states;
      const known = (r, c) => Math.max(0, (cell(now.certain, r, c) / 255 - floor) / (1 - floor));
      p.cells(x, 1, size - 2, frame, (_, r, c) => mix(ink.even, p.grey(cell(now.cells, r, c)), known(r, c)));
      context.strokeStyle = ink.pal[4]; context.lineWidth = 1.4; context.lineCap = "round"; context.beginPath();
      for (let r = 0; r < n; r++) for (let c = 0; c < n; c++) if (cell(now.cells, r, c) !== p.state(frame, r, c)) {
        wrong++;
        const [a, b, d] = [x + (c + 0.5) * u, 1 + (r + 0.5) * u, u * 0.2];
        context.moveTo(a - d, b - d); context.lineTo(a + d, b + d); context.moveTo(a + d, b - d); context.lineTo(a - d, b + d);
      }
      context.stroke();
    }
    p.frame(x, 1, size - 2);
    if (at.patch >= 0 && at.patch < g.patches) for (const left of [1, x]) p.outline(left, 1, size - 2, [at.patch], ink.pal[4], 2);
    context.fillStyle = ink.mut;
    context.fillText(`frame ${frame}: what happens`, 1, size + 5);
    context.fillText(frame > 0 ? "what it predicts" : "given, not predicted", x, size + 5);
    return frame > 0 ? 1 - wrong / n ** 2 : null;
  }

  function paintText() {
    const {stage, i, query, weights} = now, s = stage.sequence, n = s.tokens.length, after = followers(s.tokens, query), earlier = new Set(after.map(k => k - 1)), set = new Set(after), texts = s.texts;
    if (strip.shows !== s) {
      strip.replaceChildren(...texts.map((text, k) => { const span = make("span", visible(text)); span.addEventListener("click", () => moved(k)); return span; }));
      strip.classList.toggle("ids", texts.every(t => /^\d+$/.test(t)));
      strip.shows = s;
      strip.setAttribute("role", "group");
    }
    [...strip.children].forEach((span, k) => {
      const w = weights && k <= query ? Math.round(100 * Math.sqrt(weights.weight(query, k))) : 0;
      span.style.background = w > 3 ? `color-mix(in srgb, var(--pal2) ${Math.min(85, w)}%, transparent)` : "";
      span.className = [k === query && "at", set.has(k) && "followed", earlier.has(k) && "earlier", k > query && "later", k === query + 1 && "coming"].filter(Boolean).join(" ");
    });
    const word = k => `“${visible(texts[k])}”`, likely = now.truth[i * (n - 1) + query] / 255, base = (i * (n - 1) + query) * 3;
    const guess = stage.words.length ? [0, 1, 2].filter(k => now.sure[base + k] > 0).map(k => [stage.words[now.top[2 * (base + k)] + 256 * now.top[2 * (base + k) + 1]], now.sure[base + k] / 255]) : [];
    next.replaceChildren(make("h4", "What it predicts"), ...guess.map(([text, p]) => { const line = make("div"), bar = make("i"), right = text === texts[query + 1]; bar.style.width = `${Math.max(1, 100 * p)}%`; line.append(make("span", visible(text), "word"), make("span", p.toFixed(2), "p"), bar, make("b", right ? "✓" : "")); if (right) line.className = "right"; return line; }), make("p", `what comes: ${word(query + 1)}, ${likely.toFixed(2)}`));
    const on = weights && after.length ? weights.focus(query) : null, chance = after.length / (query + 1);
    tell([["attention on what followed earlier", on === null ? "–" : share(on)], ["if it looked everywhere alike", after.length ? share(chance) : "–"], ["earlier occurrences", String(after.length)], ["probability of what comes", likely.toFixed(2)]]);
    strip.setAttribute("aria-label", `Text with the attention of ${named(pane.head)} from token ${query}. Left and right arrow: token; up and down: the next token that stood there before.`);
    if (!weights) return lacking();
    const came = [...new Set(after.map(k => texts[k]))], told = came.slice(0, 3).map(t => `“${visible(t)}”`).join(", ") + (came.length > 3 ? ` and ${came.length - 3} more` : "");
    const head = after.length ? `${word(query)} stood there ${after.length === 1 ? "once" : `${after.length} times`} before, followed by ${told}: ${named(pane.head)} puts ${share(on)} of its attention on what followed (${share(chance)} if it looked everywhere alike)` : `${word(query)} stands there for the first time: an induction head has nothing to find`;
    return `${head}${older()}. ${guess.length ? `Predicted is “${visible(guess[0][0])}” (${guess[0][1].toFixed(2)}); what` : "What"} comes is ${word(query + 1)} (${likely.toFixed(2)}).`;
  }

  function paintMap() {
    const {stage, i, codes} = now, [layers, heads] = stage.shape, canvas = map.body, width = map.box.clientWidth || 150, cell = Math.min(30, width / heads), context = sharp(canvas, cell * heads, cell * layers), colors = lookup(), size = layers * heads;
    canvas.style.width = `${cell * heads}px`;
    const at = stage.map_at ? Math.max(0, stage.map_at.filter(a => a <= i).length - 1) : i;
    for (let h = 0; h < size; h++) {
      const code = codes ? codes[at * size + h] : 255;
      context.fillStyle = code === 255 ? inks().low : `rgb(${colors[code].map(Math.round).join(",")})`;
      context.fillRect(h % heads * cell, Math.floor(h / heads) * cell, cell - 1, cell - 1);
    }
    const [l, h] = pane.head.split(".").map(Number), own = codes ? codes[at * size + l * heads + h] : 255, {low, high} = widget.probes[pane.probe] ?? {};
    context.strokeStyle = inks().pal[2]; context.lineWidth = 2.5; context.strokeRect(h * cell + 1, l * cell + 1, cell - 3, cell - 3);
    map.value.textContent = own === 255 ? "not measured" : (low + own / 254 * (high - low)).toFixed(2);
    canvas.setAttribute("role", "application"); canvas.setAttribute("aria-roledescription", "head map"); canvas.tabIndex = 0;
    canvas.setAttribute("aria-label", `${pane.probe ?? "no probe"}: ${layers} layers by ${heads} heads, ${named(pane.head)} chosen. Arrow keys choose a head.`);
    map.pick = (x, y) => { const [hh, ll] = [Math.floor(x / cell), Math.floor(y / cell)]; if (hh >= 0 && ll >= 0 && hh < heads && ll < layers) pane.setHead(headPlace(ll, hh)); };
    map.move = (dl, dh) => pane.setHead(headPlace(Math.max(0, Math.min(layers - 1, l + dl)), Math.max(0, Math.min(heads - 1, h + dh))));
  }
  map.body.addEventListener("click", event => map.pick?.(event.offsetX, event.offsetY));
  map.body.addEventListener("keydown", event => {
    const by = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (by) { event.preventDefault(); event.stopPropagation(); map.move?.(...by); }
  });

  function paintPattern() {
    const {stage, query, weights} = now, n = stage.sequence.tokens.length, canvas = pattern.body, context = canvas.getContext("2d"), colors = lookup();
    canvas.width = canvas.height = n;
    canvas.className = "matrix";
    pattern.head.firstChild.textContent = `Pattern of ${pane.head}`;
    pattern.value.textContent = weights ? "" : "not in this page";
    canvas.setAttribute("aria-label", `Attention of ${named(pane.head)}: rows are queries, columns keys`);
    if (!weights) return;
    const picture = context.createImageData(n, n);
    for (let q = 0; q < n; q++) for (let k = 0; k <= q; k++) {
      const tone = colors[Math.round(255 * Math.sqrt(weights.weight(q, k)))];
      picture.data.set([...tone.map(v => q === query ? v * 0.8 : v), 255], 4 * (q * n + k));
    }
    context.putImageData(picture, 0, 0);
    context.fillStyle = inks().pal[4];
    context.fillRect(query + 1, query, Math.max(2, n - query - 1), 1);
  }
  pattern.body.addEventListener("click", event => { if (now) moved(Math.floor(event.offsetY / pattern.body.clientHeight * now.stage.sequence.tokens.length)); });

  /* loss, effect and rule inference; x runs over all stages of the model, or is the frame */
  function lines({stage, i}) {
    const stages = pane.model.stages, xs = stages.flatMap(s => [...s.clock, ...s.loss.map(p => p[0])]), x = [Math.min(...xs), Math.max(...xs)], swap = stages.length > 1 ? 0 : undefined;
    const ends = x.map(amount), here = stage.clock[i];
    const points = stages.map(s => s.loss.filter(p => p[1] !== null)), near = stage.loss.filter(p => p[0] <= here + 1e-6), value = near.length ? near[near.length - 1][1] : stage.loss[0]?.[1];
    loss.box.hidden = !points.some(p => p.length);
    if (!loss.box.hidden) chart(loss.body, {x, y: extent(points.flat().map(p => p[1])), swap, said: ends, format: v => plainly(v, 1), lines: points.map(p => ({points: p, color: color()})), dot: [here, value, color()]});
    loss.value.textContent = value === undefined || value === null ? "" : value.toFixed(2);
    const own = s => s.effects?.heads[pane.head]?.map((e, k) => e && [s.clock[k], ...e]).filter(Boolean) ?? [], every = stages.map(own), all_ = stages.flatMap(s => Object.values(s.effects?.heads ?? {}).flat().filter(Boolean).flatMap(e => [e[0], ...(e[1] === null ? [] : [e[1], e[2]])]));
    effect.box.hidden = !all_.length;
    if (!effect.box.hidden) {
      const at = stage.effects?.heads[pane.head]?.[i];
      chart(effect.body, {x, y: extent([...all_, 0]), swap, said: ends, format: v => plainly(v, 2), lines: every.map(line => ({points: line.map(p => [p[0], p[1]]), color: color()})), band: every[stages.indexOf(stage)].filter(p => p[2] !== null).map(p => [p[0], p[2], p[3]]), dot: [here, at?.[0] ?? null, color()]});
      effect.value.textContent = at ? `${signed(at[0], 3)}${at[1] === null ? "" : ` (${signed(at[1], 3)} to ${signed(at[2], 3)})`}` : "not measured here";
    }
    rule.box.hidden = !stage.rule;
    if (stage.rule) {
      const {frames, curves, ideal} = stage.rule, line = values => frames.map((f, k) => [f, values[k]]).filter(p => p[1] !== null), curve = curves[i];
      chart(rule.body, {x: [frames[0], frames[frames.length - 1]], y: [Math.min(0.5, ...curves.flat().filter(v => v !== null)), 1], said: [`frame ${frames[0]}`, `${frames[frames.length - 1]}`], format: v => v.toFixed(1), lines: [...(curve ? [{points: line(curve), color: color(), width: 2.4}] : []), ...Object.values(ideal).map((v, k) => ({points: line(v), color: "var(--mut)", width: 1.2, dash: ["none", "4 3", "1 3"][k % 3]}))]});
      rule.body.append(make("p", "grey: " + Object.keys(ideal).map((name, k) => `${["thin", "dashed", "dotted"][k % 3]} ${name}`).join(", "), "ideal"));
      rule.value.textContent = curve?.length ? `${share(curve[curve.length - 1])} at the last frame` : "not measured here";
    }
  }
  pane.event = by => {
    if (!now) return null;
    const s = now.stage.sequence, n = s.tokens.length;
    if (s.kind === "grid") return now.query + by * geometry(s).per;
    for (let q = now.query + by; q >= 0 && q < n - 1; q += by) if (followers(s.tokens, q).length) return q;
    return null;
  };
  /* how much more of its attention than by looking everywhere alike goes where such a head is meant to look, for every token that may be the first to be seen */
  pane.shares = async ({stage, i}) => {
    const s = stage.sequence, weights = await patternOf(stage, pane.head, i), found = new Map();
    const g = s.kind === "grid" ? geometry(s) : null, from = g ? s.start + (s.frames - 1) * g.per : 0;
    for (let q = from; q < s.tokens.length - 1; q++) {
      const keys = g ? g.causes(q) : followers(s.tokens, q);
      if (keys.length && weights) found.set(q, weights.focus(q) - keys.length / (q + 1));
    }
    return found;
  };
  return pane;
}

/* a slider with its play button; step(by) moves it, going round */
function runner(words, pace, go) {
  const box = make("div", undefined, "controls"), play = make("button", "Play"), slider = make("input"), out = make("output", undefined, "count"), name = make("span", words, "name");
  let timer = null;
  play.type = "button"; slider.type = "range"; slider.min = "0";
  slider.setAttribute("aria-label", words);
  const label = on => { play.textContent = on ? "Pause" : "Play"; play.className = "play"; play.setAttribute("aria-pressed", String(on)); play.setAttribute("aria-label", `${on ? "Pause" : "Play"}: ${words}`); };
  const self = {box, slider, out, play, playing: () => timer !== null};
  self.stop = () => { if (timer !== null) { clearInterval(timer); timer = null; label(false); go(Number(slider.value)); } };
  self.toggle = () => {
    if (timer !== null) return self.stop();
    label(true);
    timer = setInterval(() => { const last = Number(slider.max), t = Number(slider.value); slider.value = String(t >= last ? 0 : t + 1); go(Number(slider.value)); }, pace);
  };
  play.addEventListener("click", self.toggle);
  slider.addEventListener("input", () => { self.stop(); go(Number(slider.value)); });
  slider.addEventListener("keydown", event => { if (event.key === " ") { event.preventDefault(); event.stopPropagation(); self.toggle(); } });
  new IntersectionObserver(seen => { if (!seen[0].isIntersecting) self.stop(); }).observe(box);
  label(false);
  box.append(name, play, slider, out);
  return self;
}

async function circuit(figure, widget) {
  const box = figure.querySelector(".circuit"), said = make("output", undefined, "live"), panesBox = make("div", undefined, "panes"), stagesBox = make("div", undefined, "stages");
  const order = {ppt: 0, pt: 1, ft: 2};
  let marks = [], time = 0, token = 0;
  const key = (s, i) => (order[s.stage] ?? 0) * 1e15 + s.clock[i];
  const clock = runner("Training", 450, t => { time = t; show(); }), place = runner("Token", 260, t => { token = t; show(); });
  const panes = widget.initial.map((m, side) => { const pane = circuitPane(widget, side, model => model ? swapModel(pane, model) : show(), q => { place.stop(); token = q; show(); }); pane.model = widget.models[m]; return pane; });
  const back = make("button", "‹ frame"), forth = make("button", "frame ›");
  for (const [button, by] of [[back, -1], [forth, 1]]) { button.type = "button"; button.addEventListener("click", () => jump(by)); place.box.insertBefore(button, by < 0 ? place.slider : place.out); }
  panesBox.append(...panes.map(p => p.root));
  const keys = make("ul", undefined, "key"), kinds = new Set(widget.models.flatMap(m => m.stages.map(s => s.sequence.kind)));
  const meaning = [["look", "attention, square-root scale"], ["next", "what comes next"], ["cause", kinds.has("grid") ? kinds.has("text") ? "what the rule reads; what followed earlier occurrences" : "what the rule reads" : "what followed earlier occurrences"], ...(kinds.has("text") ? [["seen", "earlier occurrences"]] : []), ...(kinds.has("grid") ? [["pale", "unsure (the greyer)"], ["cross", "wrong cell"]] : [])];
  keys.append(...meaning.map(([mark, words]) => { const line = make("li", words), sign = make("i", mark === "cross" ? "×" : mark === "seen" ? "ab" : undefined, mark); sign.setAttribute("aria-hidden", "true"); line.prepend(sign, " "); return line; }));
  panesBox.style.setProperty("--panes", panes.length);
  said.setAttribute("aria-live", "polite");
  box.append(clock.box, stagesBox, place.box, panesBox, keys, said);

  /* the slider's stops: every checkpoint of either model, in the order of training */
  function stops() {
    const found = new Map();
    for (const {model} of panes) for (const s of model.stages) s.steps.forEach((_, i) => found.set(key(s, i), {stage: s.stage, at: key(s, i)}));
    marks = [...found.values()].sort((a, b) => a.at - b.at);
    clock.slider.max = String(Math.max(0, marks.length - 1));
    clock.box.hidden = stagesBox.hidden = marks.length < 2;
    const names = [...new Set(marks.map(m => m.stage))];
    stagesBox.replaceChildren(...names.map(name => { const span = make("span", STAGES[name] ?? name); span.style.flex = String(marks.filter(m => m.stage === name).length); return span; }));
    stagesBox.hidden ||= names.length < 2;
  }
  function spotOf(model) {
    const mark = marks[time];
    if (!mark) return null;
    let found = null;
    for (const s of model.stages) if (s.stage === mark.stage) s.steps.forEach((_, i) => { if (key(s, i) <= mark.at) found = {stage: s, i, late: key(s, i) < mark.at}; });
    if (!found && !widget.study && model.stages.length) found = {stage: model.stages[0], i: 0, late: true};
    return found;
  }
  const lacks = model => {
    const mark = marks[time];
    if (model.stages.some(s => s.stage === mark?.stage)) return `${model.name} has no checkpoint so early in its ${STAGES[mark.stage]}.`;
    if (model.notes.length) return `${model.name} is not shown: ${model.notes.join("; ")}.`;
    return mark?.stage === "ppt" ? `${model.name} is not pre-pre-trained: it begins at the swap, with language.` : `${model.name} has no checkpoint of ${STAGES[mark?.stage] ?? "training"}.`;
  };
  /* another sequence (after the swap, of another model) begins where it was left, or where both heads do most of what they are shown for */
  const left = new Map();
  let sequence = null;
  async function resume(spots) {
    const lead = spots.find(Boolean)?.stage.sequence.tokens.join() ?? null;
    if (lead !== sequence && lead) {
      const [own, other] = await Promise.all([spots.findIndex(Boolean), 1].map(k => spots[k] && panes[k].shares(spots[k])));
      if (!left.has(lead) && own.size) left.set(lead, [...own.keys()].reduce((a, b) => own.get(b) + (other?.get(b) ?? 0) > own.get(a) + (other?.get(a) ?? 0) ? b : a));
      token = left.get(lead) ?? token;
    } else if (lead) left.set(lead, token);
    sequence = lead;
  }
  async function show() {
    const spots = panes.map(p => spotOf(p.model)), lengths = spots.filter(Boolean).map(s => s.stage.sequence.tokens.length - 2), last = Math.max(0, ...lengths);
    await resume(spots);
    token = Math.max(0, Math.min(token, last));
    place.slider.max = String(last); place.slider.value = String(token);
    clock.slider.value = String(time);
    place.box.hidden = !lengths.length;
    place.out.textContent = `token ${token} of ${last}`;
    const lead = spots.find(Boolean);
    [back.textContent, forth.textContent] = lead?.stage.sequence.kind === "grid" ? ["‹ frame", "frame ›"] : ["‹ repeated", "repeated ›"];
    clock.out.textContent = `checkpoint ${time + 1} of ${marks.length}`;
    clock.slider.setAttribute("aria-valuetext", lead ? `${STAGES[lead.stage.stage] ?? ""}, step ${lead.stage.steps[lead.i]}` : clock.out.textContent);
    place.slider.setAttribute("aria-valuetext", lead?.stage.sequence.kind === "grid" ? `frame ${geometry(lead.stage.sequence).place(token + 1).frame}, token ${token}` : `token ${token}`);
    const told = await Promise.all(panes.map((p, k) => p.render(spots[k], token, lacks(p.model))));
    if (!clock.playing() && !place.playing()) said.textContent = told.filter(Boolean).join(" ");
    box.dataset.shown = `${time}/${token}`;
  }
  async function swapModel(pane, model) {
    const before = marks[time];
    await pane.choose(model, model.stages.find(s => s.stage === before?.stage));
    stops();
    const at = marks.findIndex(m => m.at >= (before?.at ?? 0));
    time = at < 0 ? marks.length - 1 : at;
    return show();
  }
  const jump = by => { const q = panes.map(p => p.event(by)).find(e => e !== null); if (q !== undefined) { place.stop(); token = q; show(); } };
  box.addEventListener("keydown", event => {
    if (event.target.matches("select, button, input")) return;
    const last = Number(place.slider.max), act = {
      ArrowLeft: () => { token -= 1; show(); }, ArrowRight: () => { token += 1; show(); }, ArrowUp: () => jump(-1), ArrowDown: () => jump(1),
      Home: () => { token = 0; show(); }, End: () => { token = last; show(); }, " ": () => place.toggle(),
      PageUp: () => { time = Math.max(0, time - 1); show(); }, PageDown: () => { time = Math.min(marks.length - 1, time + 1); show(); },
    }[event.key];
    if (act) { event.preventDefault(); if (event.key !== " ") place.stop(); act(); }
  });
  stops();
  const leading = panes[0].model.stages[0];
  time = Math.max(0, widget.study && leading ? marks.findLastIndex(m => m.stage === leading.stage) : marks.length - 1);
  for (const pane of panes) await pane.choose(pane.model, spotOf(pane.model)?.stage);
  repaint.push(show);
  let width = 0;
  new ResizeObserver(() => { if (panesBox.clientWidth !== width) { width = panesBox.clientWidth; show(); } }).observe(panesBox);
  await show();
}
