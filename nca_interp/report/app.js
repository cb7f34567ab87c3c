const root = document.documentElement;
const data = await unpacked(document.getElementById("page-data").textContent);
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const make = (tag, text, name) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; if (name) e.className = name; return e; };
/* what render.packed wrote */
async function unpacked(text) { return JSON.parse(new TextDecoder().decode(await inflate(text))); }
const views = [];
const repaint = [];
let off = [];

/* data: columns to fresh rows; Vega writes into row objects, so no two views may share them */
function rows(table) {
  const names = Object.keys(table.columns);
  const read = names.map(name => { const c = table.columns[name]; return Array.isArray(c) ? i => c[i] : i => c.d[c.i[i]]; });
  return Array.from({length: table.n}, (_, i) => { const row = {}; names.forEach((name, k) => { row[name] = read[k](i); }); return row; });
}

/* theme */
const theme = () => root.dataset.theme || (prefersDark.matches ? "dark" : "light");
function paint() {
  const values = data.themes[theme()];
  const button = document.getElementById("theme");
  button.textContent = theme() === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-pressed", String(theme() === "dark"));
  repaint.forEach(f => f());
  return Promise.all(views.map(({view}) => { for (const key in values) view.signal(key, values[key]); return view.runAsync(); }));
}
document.getElementById("theme").addEventListener("click", () => { root.dataset.theme = theme() === "dark" ? "light" : "dark"; paint(); });
prefersDark.addEventListener("change", paint);

/* charts */
const state = new Map(all("figure").map(f => [f.dataset.figure, {}]));
const drawn = new Map();
function options() {
  const loader = {load: url => Promise.reject(new Error(`this page loads nothing: ${url}`)), sanitize: uri => Promise.reject(new Error(uri))};
  return {ast: true, renderer: "svg", actions: false, logLevel: 1, config: data.config, loader};
}
function draw(cell) {
  if (drawn.has(cell)) return drawn.get(cell);
  const id = cell.closest("figure").dataset.figure;
  const {spec, data: names} = data.figures[id].charts[Number(cell.dataset.index)];
  const datasets = Object.fromEntries(names.map(name => [name, rows(data.datasets[name])]));
  const done = vegaEmbed(cell, {...spec, datasets}, options()).then(({view}) => {
    views.push({view, id});
    headChart(view, cell);
    const values = {...data.themes[theme()], off, ...state.get(id)};
    for (const key in values) view.signal(key, values[key]);
    return view.runAsync();
  });
  drawn.set(cell, done);
  return done;
}
function update(id, values) {
  Object.assign(state.get(id), values);
  return Promise.all(views.filter(v => v.id === id).map(({view}) => { for (const key in values) view.signal(key, values[key]); return view.runAsync(); }));
}
all("fieldset.legend input").forEach(box => box.addEventListener("change", () => {
  off = all("fieldset.legend input").filter(b => !b.checked).map(b => b.value);
  views.forEach(({view}) => view.signal("off", off).runAsync());
}));
all("figure").forEach(figure => all("[data-choice]", figure).forEach(select => select.addEventListener("change", () => {
  update(figure.dataset.figure, {[select.dataset.choice]: select.value});
  fill(figure);
})));

/* data tables */
const LIMIT = 400;
const written = value => value === null || value === undefined || value === "" ? "–" : String(value);
function chosenNow(id) {
  const choice = state.get(id);
  all("[data-choice]", document.getElementById(id)).forEach(s => { if (!(s.dataset.choice in choice)) choice[s.dataset.choice] = s.value; });
  return choice;
}
function chosen(figure) {
  const id = figure.dataset.figure, choice = chosenNow(id), table = rows(data.figures[id].table);
  return table.filter(row => Object.keys(choice).every(key => !(key in row) || String(row[key]) === String(choice[key])));
}
function fill(figure) {
  const details = figure.querySelector("details.data"), place = details.querySelector(".scroll");
  if (!details.open) return;
  const id = figure.dataset.figure, columns = data.figures[id].table.columns, names = Object.keys(columns), found = chosen(figure);
  const numeric = names.map(name => Array.isArray(columns[name]));
  const table = make("table"), head = make("tr"), body = make("tbody"), thead = make("thead"), more = make("p", "", "quiet");
  names.forEach((name, k) => { const th = make("th", name.replaceAll("_", " "), numeric[k] ? "n" : ""); th.scope = "col"; head.append(th); });
  thead.append(head);
  table.append(thead, body);
  const lines = found.map(row => ({values: names.map(name => row[name]), text: names.map(name => written(row[name])).join(" ").toLowerCase()}));
  function list(kept) {
    body.replaceChildren(...kept.slice(0, LIMIT).map(line => { const tr = make("tr"); line.values.forEach((value, k) => tr.append(make("td", written(value), numeric[k] ? "n" : ""))); return tr; }));
    more.textContent = kept.length > LIMIT ? `The first ${LIMIT} of ${kept.length} rows; the CSV holds all.` : "";
  }
  place.replaceChildren(table, more);
  place.previousElementSibling.matches(".sift") && place.previousElementSibling.remove();
  if (lines.length > MANY) sift(place, table, lines, list); else list(lines);
}
all("details.data").forEach(details => details.addEventListener("toggle", () => fill(details.closest("figure"))));
all("[data-save]").forEach(button => button.addEventListener("click", () => saveFigure(button.closest("figure"), button.dataset.save)));

/* a short gloss of a term, while it is pointed at or has the focus; Escape takes it away */
const tip = document.getElementById("tip");
const hush = () => { tip.hidden = true; };
all("a.gloss").forEach(link => {
  const meaning = document.getElementById(link.hash.slice(1));
  const tell = () => { tip.textContent = `${meaning.previousElementSibling.textContent}: ${meaning.textContent}`; tip.hidden = false; };
  for (const [event, does] of [["pointerenter", tell], ["focus", tell], ["pointerleave", hush], ["blur", hush]]) link.addEventListener(event, does);
});
addEventListener("keydown", event => { if (event.key === "Escape") hush(); });

/* rasters */
async function pixels(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  return image;
}
function lookup() {
  const stops = data.themes[theme()].ramp.map(hex => [1, 3, 5].map(k => parseInt(hex.slice(k, k + 2), 16)));
  return Array.from({length: 256}, (_, v) => { const at = v / 255 * (stops.length - 1), i = Math.min(Math.floor(at), stops.length - 2); return stops[i].map((c, k) => c + (at - i) * (stops[i + 1][k] - c)); });
}
const visible = text => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("Ġ", " ") || "∅";
async function greys(uri, width, height) {
  const sheet = make("canvas"), context = sheet.getContext("2d");
  sheet.width = width; sheet.height = height;
  context.drawImage(await pixels(uri), 0, 0);
  return context.getImageData(0, 0, width, height).data.filter((_, i) => i % 4 === 0);
}
/* a map of one head; returns the function that shows an entry {size, tokens, png} or, max-pooled, {size, tokens, bytes, block} */
function viewer(box) {
  const canvas = box.querySelector("canvas"), reading = box.querySelector("output"), strip = box.querySelector(".strip");
  const context = canvas.getContext("2d", {willReadFrequently: true});
  let entry, bytes, query = 0, key = 0, ticket = 0;
  const p = (q, k) => (bytes[q * entry.size + k] / 255) ** 2;
  function show() {
    const n = entry.size, colors = lookup(), picture = context.createImageData(n, n);
    for (let q = 0; q < n; q++) for (let k = 0; k <= q; k++) {
      const [r, g, b] = colors[bytes[q * n + k]], at = 4 * (q * n + k), lit = (q === query || k === key) ? 0.82 : 1;
      picture.data.set([r * lit, g * lit, b * lit, 255], at);
    }
    context.putImageData(picture, 0, 0);
    const spans = all("span", strip);
    spans.forEach((span, k) => {
      const share = k <= query ? Math.round(100 * Math.sqrt(p(query, k))) : 0;
      span.style.background = share > 4 ? `color-mix(in srgb, var(--accent) ${Math.min(70, share)}%, transparent)` : "";
      span.className = (k === query ? "query " : "") + (k === key ? "key " : "") + (k > query ? "later" : "");
    });
  }
  function point(q, k) {
    query = Math.max(0, Math.min(entry.size - 1, q));
    key = Math.max(0, Math.min(query, k));
    const name = i => entry.block ? entry.block(i) : `${i} “${visible(entry.tokens[i])}”`;
    reading.textContent = `query ${name(query)} → key ${name(key)}: ${entry.block ? "up to " : ""}${p(query, key).toFixed(3)}`;
    show();
  }
  async function load(wanted) {
    const own = ++ticket, found = wanted.bytes ?? await greys(wanted.png, wanted.size, wanted.size);
    if (own !== ticket) return;
    entry = wanted; bytes = found;
    canvas.width = canvas.height = entry.size;
    strip.replaceChildren(...entry.tokens.map((token, k) => {
      const span = make("span", visible(token));
      span.addEventListener("pointerenter", () => point(k, key));
      return span;
    }));
    strip.classList.toggle("ids", entry.tokens.every(token => /^\d+$/.test(token)));
    const last = entry.size - 1;
    let best = 0;
    for (let k = 0; k <= last; k++) if (p(last, k) > p(last, best)) best = k;
    point(last, best);
  }
  canvas.addEventListener("pointermove", event => {
    const area = canvas.getBoundingClientRect();
    if (entry) point(Math.floor((event.clientY - area.top) / area.height * entry.size), Math.floor((event.clientX - area.left) / area.width * entry.size));
  });
  canvas.addEventListener("keydown", event => {
    const move = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    if (move && entry) { event.preventDefault(); point(query + move[0], key + move[1]); }
  });
  repaint.push(() => entry && show());
  return load;
}
async function attention(box, widget) {
  const select = box.querySelector("select"), look = viewer(box), exhibits = widgetOf("thumbnails")?.entries;
  async function load() {
    const entry = widget.entries[Number(select.value)];
    await look(entry.png ? entry : await seen(exhibits[entry.exhibit], ...entry.place.split(".").map(Number)));
  }
  select.addEventListener("change", load);
  await load();
}
async function player(box, widget) {
  const canvas = box.querySelector("canvas"), slider = box.querySelector("input"), play = box.querySelector(".play"), count = box.querySelector(".count"), place = box.querySelector(".tokens");
  const sprite = await pixels(widget.png), scale = Math.max(1, Math.floor(480 / widget.size)), across = widget.size / widget.patch;
  canvas.width = canvas.height = widget.size * scale;
  const context = canvas.getContext("2d");
  let timer = null, marked = -1;
  function show() {
    const t = Number(slider.value), n = widget.size;
    context.imageSmoothingEnabled = false;
    context.drawImage(sprite, (t % widget.columns) * n, Math.floor(t / widget.columns) * n, n, n, 0, 0, canvas.width, canvas.height);
    if (marked >= 0) {
      const side = widget.patch * scale;
      context.lineWidth = 4; context.strokeStyle = "#fff";
      context.strokeRect((marked % across) * side, Math.floor(marked / across) * side, side, side);
      context.lineWidth = 2; context.strokeStyle = "#000";
      context.strokeRect((marked % across) * side, Math.floor(marked / across) * side, side, side);
    }
    count.textContent = `frame ${t + 1} of ${widget.count}`;
  }
  function tokens() {
    const list = widget.tokens[Number(slider.value)] || [], cells = make("div", undefined, "patches");
    cells.style.gridTemplateColumns = `repeat(${across}, auto)`;
    list.slice(1, -1).forEach((token, i) => {
      const span = make("span", token);
      span.addEventListener("pointerenter", () => { marked = i; show(); });
      span.addEventListener("pointerleave", () => { marked = -1; show(); });
      cells.append(span);
    });
    place.replaceChildren(make("span", list[0], "mark"), cells, make("span", list[list.length - 1], "mark"));
  }
  const go = t => { slider.value = String((t + widget.count) % widget.count); show(); tokens(); };
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; play.setAttribute("aria-pressed", "false"); };
  play.addEventListener("click", () => {
    if (timer) return stop();
    timer = setInterval(() => go(Number(slider.value) + 1), 180);
    play.textContent = "Pause"; play.setAttribute("aria-pressed", "true");
  });
  box.querySelector(".next").addEventListener("click", () => { stop(); go(Number(slider.value) + 1); });
  box.querySelector(".back").addEventListener("click", () => { stop(); go(Number(slider.value) - 1); });
  slider.addEventListener("input", () => { stop(); go(Number(slider.value)); });
  new IntersectionObserver(seen => { if (!seen[0].isIntersecting && timer) stop(); }).observe(canvas);
  go(0);
}
const pagesOfHeads = headPages(), opened = () => pagesOfHeads;
const widgets = all("figure").filter(f => data.figures[f.dataset.figure].widget), awake = new Map();
function wake(figure) {
  const widget = data.figures[figure.dataset.figure].widget;
  if (!awake.has(figure)) awake.set(figure, Promise.resolve({attention, player, circuit, thumbnails, maps, text: () => null, heads: () => null}[widget.kind](figure, widget)));
  return awake.get(figure);
}
/* long tables that have come to be seen sort and filter */
const sorted = new Set();
const sortable = () => all("main .scroll.long table").filter(t => !sorted.has(t) && !hidden(t)).forEach(table => { sorted.add(table); siftable(table); });

/* draw what comes into view, the rest that stands open one by one when idle, then set up what is folded (paper wants it); #all draws
   everything at once */
const cells = all(".chart");
const start = place => place.matches("figure") ? wake(place) : draw(place);
const watch = new IntersectionObserver(seen => seen.forEach(s => { if (s.isIntersecting) { watch.unobserve(s.target); start(s.target); } }), {rootMargin: "600px"});
const folds = all("details"), hidden = cell => !!cell.closest("details:not([open])");
const whole = location.hash === "#all";
if (whole) folds.forEach(fold => { if (!fold.matches(".data, .save")) fold.open = true; });
/* an address leads into what is folded */
function unfold() {
  const place = location.hash.length > 1 && all("[id]").find(e => `#${e.id}` === location.hash || `#${encodeURIComponent(e.id)}` === location.hash);
  if (!place) return;
  const inside = place.matches("section") ? place.querySelector(":scope > details.part") : null;
  for (let e = inside ?? place; e; e = e.parentElement) if (e.matches("details")) e.open = true;
  place.scrollIntoView();
}
folds.forEach(fold => fold.addEventListener("toggle", () => {
  if (!fold.open) return;
  sortable();
  widgets.filter(f => fold.contains(f) && !hidden(f)).forEach(wake);
  rest(all(".chart", fold).filter(c => !drawn.has(c) && !hidden(c)));
}));
addEventListener("hashchange", unfold);
unfold();
const places = [...widgets, ...cells], eager = whole ? places : places.filter(c => !hidden(c) && c.getBoundingClientRect().top < innerHeight);
sortable();
places.forEach(c => watch.observe(c));
paint();
const idle = window.requestIdleCallback || (f => setTimeout(f, 50));
Promise.all([...eager.map(start), pagesOfHeads.route?.()]).then(() => {
  performance.mark("ready");
  root.dataset.ready = "1";
  const open = places.filter(c => !drawn.has(c) && !awake.has(c) && !hidden(c));
  rest([...open, ...widgets.filter(f => hidden(f))]);
});
function rest(waiting) {
  if (!waiting.length) { Promise.all([...drawn.values(), ...awake.values()]).then(() => { root.dataset.drawn = "1"; }); return; }
  idle(() => start(waiting[0]).finally(() => rest(waiting.slice(1))));
}

/* paper */
let before, closed = [];
addEventListener("beforeprint", () => {
  before = root.dataset.theme; root.dataset.theme = "light";
  closed = folds.filter(fold => !fold.open && !fold.matches(".data, .save"));
  closed.forEach(fold => { fold.open = true; });
  widgets.forEach(wake); cells.forEach(draw); paint();
});
addEventListener("afterprint", () => {
  closed.forEach(fold => { fold.open = false; });
  if (before) root.dataset.theme = before; else delete root.dataset.theme;
  paint();
});
