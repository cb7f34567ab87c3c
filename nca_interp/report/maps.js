/* small maps of all probes: a canvas a probe and model, a cell a head. Only functions, as in heads.js. */
async function maps(figure, widget) {
  const box = figure.querySelector(".maps"), said = figure.querySelector(".said"), pages = opened();
  const source = document.getElementById(widget.source), select = source.querySelector("[data-choice=probe]");
  const every = [...new Set(data.figures[widget.source].charts.flatMap(chart => chart.data))].flatMap(name => rows(data.datasets[name])).filter(r => r.run !== undefined);
  const painters = [];
  for (const model of widget.models) {
    const marks = new Map(every.filter(r => r.run === model.run).map(r => [headPlace(r.layer, r.head), r]));
    if (widget.models.length > 1) box.append(make("h3", model.name));
    for (const probe of Object.keys(widget.spans).filter(name => name in model.tops)) box.append(mini(model, marks, probe));
  }
  function mini(model, marks, probe) {
    const cell = model.heads <= 12 && model.layers <= 40 ? 12 : Math.max(5, Math.min(12, Math.floor(352 / model.heads)));
    const tile = make("div", undefined, "mini"), name = make("button", probe), canvas = make("canvas"), [low, high] = widget.spans[probe];
    const context = canvas.getContext("2d"), hit = r => r.hits.includes(` ${probe} `);
    canvas.width = model.heads * cell; canvas.height = model.layers * cell;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${probe}, ${model.name}: ${model.layers} layers by ${model.heads} heads; highest ${model.tops[probe]}`);
    name.type = "button";
    name.title = "show at large";
    name.addEventListener("click", () => { select.value = probe; select.dispatchEvent(new Event("change")); source.scrollIntoView(); });
    painters.push(() => {
      const colors = lookup(), {pal, bg} = data.themes[theme()];
      context.fillStyle = bg;
      context.fillRect(0, 0, canvas.width, canvas.height);
      for (const r of marks.values()) {
        if (r[probe] === null || r[probe] === undefined) continue;
        const [x, y] = [r.head * cell, r.layer * cell];
        context.fillStyle = `rgb(${colors[Math.max(0, Math.min(255, Math.round(255 * (r[probe] - low) / (high - low))))].map(Math.round).join(",")})`;
        context.fillRect(x, y, cell - 1, cell - 1);
        if (hit(r)) { context.strokeStyle = pal[2]; context.lineWidth = cell > 8 ? 2 : 1.5; context.strokeRect(x + 1, y + 1, cell - 3, cell - 3); }
      }
    });
    const under = event => {
      const area = canvas.getBoundingClientRect();
      return marks.get(headPlace(Math.floor((event.clientY - area.top) / area.height * model.layers), Math.floor((event.clientX - area.left) / area.width * model.heads)));
    };
    canvas.addEventListener("pointermove", event => {
      const r = under(event);
      if (!r || r[probe] === null || r[probe] === undefined) return;
      canvas.title = said.textContent = `${model.name}, ${headName(r.layer, r.head)}: ${probe} ${plainly(r[probe])}${hit(r) ? ", of the kind" : ""}`;
    });
    canvas.addEventListener("click", event => { const r = under(event); if (r) pages.open(model.run, r.layer, r.head); });
    tile.append(name, canvas, make("p", model.tops[probe]));
    return tile;
  }
  repaint.push(() => painters.forEach(paint => paint()));
  painters.forEach(paint => paint());
}
