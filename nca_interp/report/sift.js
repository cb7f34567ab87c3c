/* tables of more than 20 rows: sort by a column, filter by words. Only functions, as in heads.js. */
const MANY = 20;
/* the number that a cell begins with, as report/charts/numbers.py writes it; null where there is none */
function leading(text) {
  const found = /^[<>]?\s*\[?([+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)\s*([kMBT])?\b/.exec(text.replaceAll("−", "-").replaceAll("\u00a0", " ").trim());
  return found ? Number(found[1].replaceAll(",", "")) * ({k: 1e3, M: 1e6, B: 1e9, T: 1e12}[found[2]] ?? 1) : null;
}
function inOrder(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", {numeric: true});
}
/* `lines`: {text, values} each; `draw(lines)` puts those that are left, in their order, into the table inside `box` */
function sift(box, table, lines, draw) {
  const bar = make("p", undefined, "sift"), label = make("label", "Filter "), input = make("input"), count = make("output"), heads = all("thead th", table);
  let by = -1, up = true;
  input.type = "search";
  label.append(input);
  bar.append(label, count);
  box.before(bar);
  function show() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean), kept = lines.filter(line => words.every(word => line.text.includes(word)));
    const none = line => line.values[by] === null || line.values[by] === undefined || line.values[by] === "" || line.values[by] === "–";
    if (by >= 0) kept.sort((a, b) => none(a) - none(b) || (none(a) ? 0 : inOrder(a.values[by], b.values[by]) * (up ? 1 : -1)));
    count.textContent = words.length ? `${kept.length} of ${lines.length} rows` : `${lines.length} rows`;
    draw(kept);
  }
  heads.forEach((th, k) => {
    const button = make("button", th.textContent);
    button.type = "button";
    th.replaceChildren(button);
    button.addEventListener("click", () => {
      up = by === k ? !up : true;
      by = k;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", up ? "ascending" : "descending");
      show();
    });
  });
  input.addEventListener("input", show);
  show();
}
/* a table that stands in the page already */
function siftable(table) {
  const body = table.tBodies[0], found = [...body.rows];
  if (found.length <= MANY) return;
  const numeric = all("thead th", table).map(th => th.classList.contains("n"));
  const lines = found.map(row => {
    const texts = [...row.cells].map(cell => cell.textContent);
    return {row, text: texts.join(" ").toLowerCase(), values: texts.map((text, k) => numeric[k] ? leading(text) : text)};
  });
  sift(table.closest(".scroll"), table, lines, kept => body.replaceChildren(...kept.map(line => line.row)));
}
