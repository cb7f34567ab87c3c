/* a figure as one SVG, PNG or CSV, in the light colours, as it is laid out now. Only functions, as in heads.js. */
const SVG = "http://www.w3.org/2000/svg";
const drawing = (name, attributes, text) => { const e = document.createElementNS(SVG, name); for (const key in attributes) e.setAttribute(key, attributes[key]); if (text !== undefined) e.textContent = text; return e; };
const quoted = value => { const text = value === null || value === undefined ? "" : String(value); return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; };
function save(name, blob) {
  const link = make("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
function csvOf(id) {
  const names = Object.keys(data.figures[id].table.columns);
  return [names, ...rows(data.figures[id].table).map(row => names.map(n => row[n]))].map(line => line.map(quoted).join(",")).join("\n") + "\n";
}
/* a drawing with the looks that the page's style gives it */
function styled(svg) {
  const copy = svg.cloneNode(true), to = [copy, ...copy.querySelectorAll("*")];
  [svg, ...svg.querySelectorAll("*")].forEach((e, i) => {
    const style = getComputedStyle(e);
    for (const key of ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family", "text-anchor"]) to[i].setAttribute(key, style.getPropertyValue(key));
  });
  return copy;
}
/* every chart, map and heading of a figure at its place, and the legend of regimes where its colours are theirs */
async function picture(figure) {
  const before = root.dataset.theme;
  root.dataset.theme = "light";
  all("details.fold", figure).forEach(fold => { fold.open = true; });
  if (data.figures[figure.dataset.figure].widget) await wake(figure);
  await Promise.all(all(".chart", figure).map(draw));
  await paint();
  try {
    const parts = all(".chart svg.marks, .circuit svg, canvas, .cell > h3, .circuit h4", figure).filter(e => e.checkVisibility()), places = parts.map(e => e.getBoundingClientRect());
    const left = Math.min(...places.map(p => p.left)), top = Math.min(...places.map(p => p.top)), margin = 12;
    const width = Math.max(...places.map(p => p.right)) - left + 2 * margin;
    let height = Math.max(...places.map(p => p.bottom)) - top + 2 * margin;
    const whole = drawing("svg", {xmlns: SVG, "font-family": "system-ui, sans-serif"}), ground = whole.appendChild(drawing("rect", {fill: "#fff"}));
    parts.forEach((e, i) => {
      const at = {x: places[i].left - left + margin, y: places[i].top - top + margin, width: places[i].width, height: places[i].height};
      if (e.matches("svg")) { const copy = e.closest(".circuit") ? styled(e) : e.cloneNode(true); for (const key in at) copy.setAttribute(key, at[key]); copy.setAttribute("overflow", "visible"); whole.append(copy); }
      else if (e.matches("canvas")) whole.append(drawing("image", {...at, href: e.toDataURL(), style: "image-rendering:pixelated", preserveAspectRatio: "none"}));
      else whole.append(drawing("text", {x: at.x, y: at.y + 14, "font-size": 13, "font-weight": 600, fill: "#1d2126"}, e.textContent));
    });
    if (JSON.stringify(data.figures[figure.dataset.figure].charts).includes('"field":"regime"')) {
      let x = margin;
      for (const entry of all("fieldset.legend label")) {
        const name = entry.querySelector("b").textContent, wide = 30 + 7 * name.length;
        if (x > margin && x + wide > width) { x = margin; height += 20; }
        const mark = entry.querySelector("path"), group = whole.appendChild(drawing("g", {transform: `translate(${x} ${height - 2})`}));
        group.append(drawing("path", {d: mark.getAttribute("d"), fill: getComputedStyle(mark).fill}), drawing("text", {x: 17, y: 10, "font-size": 12, fill: "#1d2126"}, name));
        x += wide;
      }
      height += 24;
    }
    for (const [e, key] of [[whole, "viewBox"], [ground, null]]) { e.setAttribute("width", width); e.setAttribute("height", height); if (key) e.setAttribute(key, `0 0 ${width} ${height}`); }
    return {text: new XMLSerializer().serializeToString(whole), width, height};
  } finally {
    if (before) root.dataset.theme = before; else delete root.dataset.theme;
    await paint();
  }
}
async function saveFigure(figure, kind) {
  const id = figure.dataset.figure, name = `${data.study}-${id}.${kind}`.replaceAll(/[^\w.-]/g, "_");
  if (kind === "csv") return save(name, new Blob([csvOf(id)], {type: "text/csv"}));
  const {text, width, height} = await picture(figure);
  if (kind === "svg") return save(name, new Blob([text], {type: "image/svg+xml"}));
  const image = await pixels(`data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`), canvas = make("canvas");
  canvas.width = 2 * width; canvas.height = 2 * height;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return save(name, await new Promise(done => canvas.toBlob(done, "image/png")));
}
