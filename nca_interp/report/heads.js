/* pages of single heads: thumbnails, the dialog, its address. Only functions: app.js, whose helpers they use, calls them. */
const headName = (layer, head) => `layer ${layer} head ${head}`;
const headPlace = (layer, head) => `${layer}.${head}`;
const signed = (value, digits = 4) => value === null || value === undefined ? "–" : (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);
const plainly = (value, digits = 4) => value === null || value === undefined ? "–" : String(Number(value.toFixed(digits))).replace("-", "−");
function widgetOf(kind) {
  const id = Object.keys(data.figures).find(name => data.figures[name].widget?.kind === kind);
  return id && {id, ...data.figures[id].widget};
}
function headAddress(run, layer, head) { return `#head/${encodeURIComponent(run)}/${headPlace(layer, head)}`; }

/* options of a selector: [value, text] pairs */
function offer(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => { const option = make("option", text); option.value = value; return option; }));
  if (chosen !== undefined) select.value = chosen;
}

/* the dialog */
function headPages() {
  const store = widgetOf("heads"), dialog = document.getElementById("head-page");
  if (!store || !dialog) return {open: () => {}, has: () => false};
  const scores = [...new Set(data.figures[store.id].charts.flatMap(chart => chart.data))].flatMap(name => rows(data.datasets[name])).filter(r => r.run in store.pages), causes = store.causes ? rows(store.causes) : null;
  const exhibits = widgetOf("thumbnails")?.entries ?? [];
  const find = name => dialog.querySelector(`.${name}`);
  const run = find("run"), place = find("place"), probe = find("probe"), shown = find("shown");
  const look = viewer(find("viewer"));
  let at = null, inside = false, trace = null;

  const sizes = page => page.stages[page.stages.length - 1].shape;
  const has = (name, layer, head) => { const page = Object.hasOwn(store.pages, name) ? store.pages[name] : null; return Boolean(page) && layer >= 0 && head >= 0 && layer < sizes(page)[0] && head < sizes(page)[1]; };
  /* a head of a pre-pre-training is shown with what became of it */
  const after = name => store.pages[name] ? name : Object.keys(store.pages).find(later => store.pages[later].before === name);
  const open = (wanted, layer, head) => { const name = after(wanted); if (has(name, layer, head)) { inside = true; location.hash = headAddress(name, layer, head); } };
  const move = (name, layer, head) => { if (has(name, layer, head)) location.replace(headAddress(name, layer, head)); };
  const leave = () => inside ? history.back() : location.replace(`#${store.id}`);

  function route() {
    const parts = /^#head\/(.+)\/(\d+)\.(\d+)$/.exec(location.hash);
    let name = null;
    try { name = parts && decodeURIComponent(parts[1]); } catch { name = null; }
    if (!parts || !has(name, Number(parts[2]), Number(parts[3]))) {
      at = null; inside = false;
      if (dialog.open) dialog.close();
      return null;
    }
    at = {run: name, layer: Number(parts[2]), head: Number(parts[3]), page: store.pages[name]};
    if (!dialog.open) { dialog.showModal(); dialog.scrollTop = 0; find("title").focus({preventScroll: true}); }
    return show();
  }

  function show() {
    const [layers, heads] = sizes(at.page);
    find("title").textContent = `Layer ${at.layer} head ${at.head}`;
    find("whose").textContent = at.page.when ? `${at.page.name}, ${at.page.when}` : at.page.name;
    find("history").hidden = at.page.stages.every(stage => stage.tokens.length < 2);
    run.value = at.run;
    const places = Array.from({length: layers * heads}, (_, i) => [Math.floor(i / heads), i % heads]);
    offer(place, places.map(([l, h]) => [headPlace(l, h), headName(l, h)]), headPlace(at.layer, at.head));
    const probes = [...new Set(at.page.stages.flatMap(s => Object.keys(s.probes)))];
    offer(probe, probes.map(name => [name, name]), [probe.value, "induction", probes[0]].find(name => probes.includes(name)));
    tabulate(); effects(); told();
    return Promise.all([pattern(true), overTime()]);
  }

  /* its pattern: whole where it was exported, else its thumbnail, enlarged */
  function pattern(renew) {
    const found = exhibits.filter(e => e.page === at.run), none = !found.length;
    find("viewer").hidden = none;
    find("unseen").hidden = !none;
    if (none) return null;
    if (renew) {
      const names = found.map(e => e.name);
      offer(shown, names.map(name => [name, name]), [shown.value, names[0]].find(name => names.includes(name)));
    }
    return seen(found.find(e => e.name === shown.value), at.layer, at.head).then(entry => {
      find("pooled").hidden = !entry.block;
      return look(entry);
    });
  }

  /* what is known of the head beside scores and effects */
  function told() {
    const box = find("told"), mine = store.facts ? rows(store.facts).filter(r => r.run === at.run && r.layer === at.layer && r.head === at.head) : [];
    const groups = [...new Set(mine.map(r => r.group))];
    box.replaceChildren(...groups.flatMap(group => [make("h3", group), table(["", ""], mine.filter(r => r.group === group).map(r => [r.fact, r.text]))]));
  }

  /* every score of the head at the page's checkpoint */
  function tabulate() {
    const peers = scores.filter(r => r.run === at.run), own = peers.find(r => r.layer === at.layer && r.head === at.head), body = find("scores").querySelector("tbody");
    const known = at.page.stages[at.page.stages.length - 1].levels, names = Object.keys(known).filter(name => own && own[name] !== null && own[name] !== undefined);
    const marked = names.some(name => known[name][1] !== null);
    all(".null", find("scores")).forEach(cell => { cell.hidden = !marked; });
    body.replaceChildren(...names.map(name => {
      const tr = make("tr"), th = make("th", name), [chance, random] = known[name], hit = own.hits.includes(` ${name} `);
      const rank = 1 + peers.filter(o => o[name] > own[name]).length;
      th.scope = "row";
      tr.append(th, make("td", plainly(own[name]), "n"), make("td", plainly(chance), "n"), ...(marked ? [make("td", plainly(random), "n"), make("td", random === null || !store.probes[name].judged ? "–" : hit ? "yes" : "no")] : []), make("td", `${rank} of ${peers.length}`, "n"));
      if (hit) tr.className = "hit";
      return tr;
    }));
  }

  /* what the model loses without it */
  function effects() {
    const box = find("effects");
    if (!causes) return box.replaceChildren(make("p", store.absent, "absent"));
    const when = at.page.when ? `, ${at.page.when}` : "";
    const stages = [[at.run, `Its output replaced by its mean${when}`], [at.page.before, "The same at the end of pre-pre-training"]].filter(([name]) => name);
    const mine = causes.filter(r => r.layer === at.layer && r.head === at.head), parts = [];
    for (const [name, heading] of stages) {
      const lost = mine.filter(r => r.run === name && r.probe === "ablation");
      if (!lost.length) continue;
      const n = causes.filter(r => r.run === name && r.probe === "ablation" && r.metric === lost[0].metric).length;
      parts.push(make("h4", heading));
      parts.push(table(["metric", "effect", "± sd", "sequences", "whole model", "harm, rank", "unit"], lost.map(r =>
        [r.metric, signed(r.value), plainly(r.sd), plainly(r.n), plainly(r.full), `${plainly(r.rank)} of ${n}`, r.unit])));
    }
    const other = [...mine.filter(r => r.run === at.run && r.probe !== "ablation"), ...causes.filter(r => r.run === at.run && r.probe === "edge" && r.from_layer === at.layer && r.from_head === at.head)];
    const what = r => ({
      patching: "clean output patched into a corrupted run: share recovered", ov_copying: "OV copying (1 copies, −1 anti-copies)", qk_matching: "QK matching (1 attends to its own token)",
      edge: r.from_layer === at.layer && r.from_head === at.head ? `direct path to ${headName(r.layer, r.head)}` : `direct path from ${headName(r.from_layer, r.from_head)}`,
    })[r.probe] ?? r.probe;
    if (other.length) parts.push(make("h4", `Patching and weights${when}`), table(["measure", "value", "chance", "± sd", "unit"], other.map(r => [what(r), signed(r.value), plainly(r.chance), plainly(r.sd), r.unit])));
    box.replaceChildren(...(parts.length ? parts : [make("p", `For this run: ${store.absent[0].toLowerCase()}${store.absent.slice(1)}`, "absent")]));
  }
  function table(names, lines) {
    const whole = make("table"), head = make("tr"), thead = make("thead"), body = make("tbody"), box = make("div", undefined, "scroll");
    const numeric = names.map((_, k) => k > 0 && k < names.length - 1);
    names.forEach((name, k) => { const th = make("th", name, numeric[k] ? "n" : ""); th.scope = "col"; head.append(th); });
    lines.forEach(line => { const tr = make("tr"); line.forEach((cell, k) => tr.append(make("td", cell, numeric[k] ? "n" : ""))); body.append(tr); });
    thead.append(head); whole.append(thead, body); box.append(whole); box.tabIndex = 0;
    return box;
  }

  /* its scores over training */
  function levels(stage, name) {
    const packed = stage.probes[name];
    if (!packed) return [];
    const codes = new Uint16Array(bytesOf(packed).buffer), [layers, heads] = stage.shape, {low, high} = store.probes[name], n = layers * heads;
    const value = code => low + code / 65534 * (high - low);
    return stage.tokens.map((tokens, t) => {
      const here = [...codes.subarray(t * n, (t + 1) * n)], own = here[at.layer * heads + at.head], known = here.filter(c => c !== 65535);
      return own === 65535 ? null : {kind: "score", stage: stage.stage, tokens, value: value(own), mean: value(known.reduce((a, b) => a + b, 0) / known.length), low: value(Math.min(...known)), high: value(Math.max(...known))};
    }).filter(Boolean);
  }
  async function overTime() {
    if (find("history").hidden) { dialog.dataset.shown = `${at.run}/${at.layer}.${at.head}/`; return; }
    const name = probe.value, marks = at.page.stages.filter(s => s.probes[name]).flatMap(stage => {
      const [tokens, until] = [stage.tokens[0], stage.tokens[stage.tokens.length - 1]], named = stage === at.page.stages[at.page.stages.length - 1], [chance, random] = stage.levels[name];
      const level = (value, word) => value === null ? [] : [{kind: "level", stage: stage.stage, tokens, until, value, text: named ? `${word} ${plainly(value)}` : ""}];
      const found = [...level(chance, "chance"), ...level(random, "random models’ 95th percentile")];
      /* two names of one height would cover each other */
      if (found.length === 2 && Math.abs(found[0].value - found[1].value) < 0.07 * (store.probes[name].high - store.probes[name].low)) { found[0].text += found[1].text && `; ${found[1].text}`; found[1].text = ""; }
      return found;
    });
    const points = at.page.stages.flatMap(stage => levels(stage, name)), unit = store.probes[name].unit;
    find("unit").textContent = unit ? `Unit: ${unit}.` : "";
    if (!trace) {
      trace = vegaEmbed(find("trace"), {...store.spec, datasets: {...store.spec.datasets, trace: []}}, options()).then(({view}) => { views.push({view, id: "head-page"}); return view; });
    }
    const view = await trace, colors = data.themes[theme()];
    for (const key in colors) view.signal(key, colors[key]);
    await view.signal("tone", at.page.slot).data("trace", [...points, ...marks]).runAsync();
    dialog.dataset.shown = `${at?.run}/${at?.layer}.${at?.head}/${name}`;
  }

  offer(run, Object.keys(store.pages).map(name => [name, store.pages[name].name]));
  const step = by => {
    const [layers, heads] = sizes(at.page), next = (at.layer * heads + at.head + by + layers * heads) % (layers * heads);
    move(at.run, Math.floor(next / heads), next % heads);
  };
  find("before").addEventListener("click", () => step(-1));
  find("after").addEventListener("click", () => step(1));
  find("close").addEventListener("click", leave);
  run.addEventListener("change", () => move(run.value, at.layer, at.head));
  place.addEventListener("change", () => move(at.run, ...place.value.split(".").map(Number)));
  probe.addEventListener("change", overTime);
  shown.addEventListener("change", () => pattern(false));
  dialog.addEventListener("cancel", event => { event.preventDefault(); leave(); });
  dialog.addEventListener("click", event => { if (event.target === dialog) leave(); });
  addEventListener("hashchange", route);
  return {open, has, route};
}

/* one head of an exhibit as something that the viewer can draw */
async function seen(exhibit, layer, head) {
  const png = exhibit.whole[headPlace(layer, head)], length = exhibit.tokens.length;
  if (png) return {size: length, tokens: exhibit.tokens, png};
  const side = exhibit.side, sheet = await greys(exhibit.sheet, exhibit.heads * side, exhibit.layers * side);
  const bytes = Uint8ClampedArray.from({length: side * side}, (_, i) => sheet[(layer * side + Math.floor(i / side)) * exhibit.heads * side + head * side + i % side]);
  const from = i => Math.floor(i * length / side), to = i => Math.max(from(i), from(i + 1) - 1);
  return {size: side, tokens: exhibit.tokens.filter((_, k) => [...Array(side).keys()].some(i => from(i) === k)), bytes, block: i => from(i) === to(i) ? `${from(i)}` : `${from(i)} to ${to(i)}`};
}

/* thumbnails: a grid of buttons, painted in the page's colours */
async function thumbnails(box, widget) {
  const select = box.querySelector("select"), grid = box.querySelector(".thumbs"), pages = opened();
  let shown = 0;
  async function load() {
    const exhibit = widget.entries[Number(select.value)], {side, layers, heads} = exhibit, ticket = ++shown;
    const sheet = await greys(exhibit.sheet, heads * side, layers * side);
    if (ticket !== shown) return;
    grid.style.setProperty("--heads", heads);
    grid.style.setProperty("--side", `${side}px`);
    grid.style.setProperty("--thumb", layers > 12 ? "5rem" : "9rem");
    const canvases = [];
    const corner = make("span", "", "corner"), top = Array.from({length: heads}, (_, h) => make("span", String(h), "tick"));
    const lines = Array.from({length: layers}, (_, l) => [make("span", String(l), "tick"), ...Array.from({length: heads}, (_, h) => {
      const canvas = make("canvas"), button = make("button");
      canvas.width = canvas.height = side;
      button.type = "button";
      button.setAttribute("aria-label", `${headName(l, h)}: open its page`);
      button.title = headName(l, h);
      button.disabled = !pages.has(exhibit.page, l, h);
      button.append(canvas);
      button.addEventListener("click", () => pages.open(exhibit.page, l, h));
      button.addEventListener("keydown", event => {
        const by = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
        const next = by && grid.querySelector(`[data-place="${headPlace(l + by[0], h + by[1])}"]`);
        if (by) event.preventDefault();
        if (next) { all("button", grid).forEach(b => { b.tabIndex = b === next ? 0 : -1; }); next.focus(); }
      });
      button.dataset.place = headPlace(l, h);
      button.tabIndex = l + h ? -1 : 0;
      canvases.push({canvas, l, h});
      return button;
    })]);
    grid.replaceChildren(corner, ...top, ...lines.flat());
    box.tint = () => {
      const colors = lookup();
      canvases.forEach(({canvas, l, h}) => {
        const context = canvas.getContext("2d"), picture = context.createImageData(side, side);
        for (let q = 0; q < side; q++) for (let k = 0; k <= q; k++) picture.data.set([...colors[sheet[(l * side + q) * heads * side + h * side + k]], 255], 4 * (q * side + k));
        context.putImageData(picture, 0, 0);
      });
    };
    box.tint();
  }
  select.addEventListener("change", load);
  repaint.push(() => box.tint?.());
  await load();
}

/* a chart whose marks are heads: a click opens the page, and a map is walked with the arrow keys */
function headChart(view, cell) {
  const pages = opened(), figure = cell.closest("figure").id;
  const names = data.figures[figure].charts[Number(cell.dataset.index)].data.filter(name => "head" in data.datasets[name].columns);
  if (!names.length) return;
  cell.dataset.heads = "";
  view.addEventListener("click", (event, item) => { const d = item?.datum; if (d && d.run !== undefined && d.head !== undefined) pages.open(d.run, d.layer, d.head); });
  if (data.figures[figure].widget?.kind !== "heads") return;
  const marks = names.flatMap(name => rows(data.datasets[name]));
  const title = cell.parentElement.querySelector("h3")?.textContent ?? "", said = cell.closest("figure").querySelector(".said");
  const layers = 1 + Math.max(...marks.map(r => r.layer)), heads = 1 + Math.max(...marks.map(r => r.head));
  let at = [-1, -1];
  cell.tabIndex = 0;
  cell.setAttribute("role", "application");
  cell.setAttribute("aria-roledescription", "head map");
  cell.setAttribute("aria-label", `${title}: ${layers} layers by ${heads} heads. Arrow keys choose a head, Enter opens its page.`);
  const found = () => marks.find(r => r.layer === at[0] && r.head === at[1] && r.domain === chosenNow(figure).domain);
  const mark = () => {
    const r = found(), {probe} = chosenNow(figure);
    view.signal("at", at).runAsync();
    said.textContent = r ? `${title}, ${headName(...at)}: ${probe} ${plainly(r[probe])}${r.hits.includes(` ${probe} `) ? ", a hit" : ""}` : "";
  };
  cell.addEventListener("keydown", event => {
    const by = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (by) { event.preventDefault(); at = at[0] < 0 ? [0, 0] : [Math.max(0, Math.min(layers - 1, at[0] + by[0])), Math.max(0, Math.min(heads - 1, at[1] + by[1]))]; mark(); }
    const r = event.key === "Enter" && found();
    if (r) pages.open(r.run, r.layer, r.head);
  });
  cell.addEventListener("blur", () => { at = [-1, -1]; mark(); });
}
