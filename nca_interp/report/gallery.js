"use strict";
const list = document.querySelector(".gallery"), items = [...list.children], search = document.getElementById("search"), order = document.getElementById("order"), count = document.getElementById("count");
function show() {
  const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  items.forEach(item => { const text = item.textContent.toLowerCase(); item.hidden = !wanted.every(word => text.includes(word)); });
  const key = order.value, sign = key === "created" ? -1 : 1;
  list.append(...[...items].sort((a, b) => sign * a.dataset[key].localeCompare(b.dataset[key])));
  count.textContent = `${items.filter(item => !item.hidden).length} of ${items.length}`;
}
search.addEventListener("input", show);
order.addEventListener("change", show);
show();
