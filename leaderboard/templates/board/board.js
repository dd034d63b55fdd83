// What the pages do beyond being read: dark or light, sorting, filtering, comparing. Without this script every table is there as it is.
"use strict";

const kept = {
  get() { try { return localStorage.getItem("theme"); } catch { return null; } },
  set(value) { try { localStorage.setItem("theme", value); } catch { /* a browser may forbid it; the choice then lasts for this page */ } },
};
if (["dark", "light"].includes(kept.get())) document.documentElement.dataset.theme = kept.get();

const data = (id) => JSON.parse(document.getElementById(id).textContent);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const made = (name, text, more = {}) => Object.assign(document.createElement(name), { textContent: text }, more);

function theme() {
  const root = document.documentElement, button = document.querySelector(".theme");
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const say = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Show in ${dark() ? "light" : "dark"} colours`); };
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; kept.set(root.dataset.theme); say(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", say);
  say();
}

// ---- sorting

function valueOf(row, i) {
  const cell = row.cells[i];
  const v = cell.dataset.v ?? (cell.tagName === "TH" || !("title" in cell.dataset) ? cell.textContent : "");
  return v === "" ? null : Number.isNaN(Number(v)) ? v.toLowerCase() : Number(v);
}

function sort(table, i, direction) {
  const body = table.tBodies[0], sign = direction === "descending" ? -1 : 1;
  const keyed = [...body.rows].map((row, at) => ({ row, at, key: valueOf(row, i) }));
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.at - b.at; // what has no value stays last
    return sign * (a.key < b.key ? -1 : a.key > b.key ? 1 : 0) || a.at - b.at;
  });
  body.append(...keyed.map((k) => k.row));
  all("thead th", table).forEach((th, j) => (j === i ? th.setAttribute("aria-sort", direction) : th.removeAttribute("aria-sort")));
}

function again(table) {
  const i = all("thead th", table).findIndex((th) => th.hasAttribute("aria-sort"));
  if (i >= 0) sort(table, i, all("thead th", table)[i].getAttribute("aria-sort"));
}

function sortable(table) {
  all("thead th", table).forEach((th, i) => {
    const button = made("button", "", { type: "button" });
    button.append(...th.childNodes);
    th.append(button);
    button.addEventListener("click", () => sort(table, i, th.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending"));
  });
}

// ---- the page of all rows

function filtered(table, form) {
  const { ranks, attacks } = data("choices"), count = document.querySelector(".count");
  const field = (name) => form.elements[name];
  const order = field("sort"), heads = all("thead th", table);
  heads.forEach((th, i) => order.append(made("option", th.textContent, { value: i })));
  order.value = heads.findIndex((th) => th.hasAttribute("aria-sort"));
  order.addEventListener("change", () => { sort(table, Number(order.value), "ascending"); });

  const tracks = [...new Set(all("tbody tr", table).map((row) => row.dataset.track))]; // ranks are within tracks, and so is their order
  const limit = (row, name) => field(name).value || row.dataset[name];

  function rank(row) {
    const said = ranks[row.dataset.id][field("access").value]?.[`${limit(row, "damage")}/${limit(row, "collateral")}`] ?? "";
    const [first, last] = said.split("–").map(Number), cell = row.querySelector(".rank"), ranked = first > 0;
    cell.querySelector(".value").textContent = ranked ? said : "–";
    cell.querySelector("small").textContent = ranked ? "" : said || "not attacked at this level";
    row.className = ranked ? "ranked" : said === "reference" ? "reference" : "unranked";
    if (ranked) cell.dataset.v = 1e4 * tracks.indexOf(row.dataset.track) + first + (last || first) / 1000; else delete cell.dataset.v;
    return ranked;
  }

  function attack(row) {
    const found = attacks[field("attack").value]?.[row.dataset.id], cell = row.querySelector(".attack");
    cell.textContent = found === undefined ? "–" : found.toFixed(1);
    if (found === undefined) delete cell.dataset.v; else cell.dataset.v = found;
    return !field("attack").value || found !== undefined;
  }

  function show() {
    const rows = [...table.tBodies[0].rows], level = field("access").value, wanted = field("name").value.trim().toLowerCase();
    all("[data-level]", table).forEach((cell) => cell.classList.toggle("chosen", cell.dataset.level === level));
    all("[data-key=attack], .attack", table).forEach((cell) => { cell.hidden = !field("attack").value; });
    order.options[heads.findIndex((th) => th.dataset.key === "attack")].hidden = !field("attack").value;
    for (const row of rows) {
      const ranked = rank(row), asked = attack(row), known = level in ranks[row.dataset.id];
      const named = row.cells[0].textContent.toLowerCase().includes(wanted), track = field("track").value;
      row.hidden = !(asked && known && named && (ranked || field("unranked").checked) && (!track || row.dataset.track === track));
    }
    again(table);
    const left = rows.filter((row) => !row.hidden).length;
    count.textContent = `${left} of ${rows.length} rows; ranks are for ${level} attackers within ${limits()}.`;
  }

  function limits() {
    const words = [["damage", "% damage"], ["collateral", " points of collateral"]].filter(([name]) => field(name).value !== "any");
    return words.length ? words.map(([name, unit]) => (field(name).value ? field(name).value + unit : `the track's ${name}`)).join(" and ") : "any budget";
  }

  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show();
}

// ---- two rows, memory by memory

function comparing(form) {
  const { entries, horizon } = data("lengths"), place = document.getElementById("pair"), table = place.querySelector("table");
  const { a, b, by } = form.elements, heads = all("thead th", table), count = document.querySelector(".count");
  const named = (select) => entries.find((e) => e.name === select.value);
  const cell = (n) => made("td", n ?? "–", { className: n >= 8 ? `h${Math.floor(n / 8)}` : "" });

  function ways() {
    const before = by.value, of = (e) => new Set(e.seeds.flatMap((s) => s.lengths.map(([way]) => way)));
    const other = of(named(b));
    by.replaceChildren(...[...of(named(a))].filter((way) => other.has(way)).map((way) => made("option", way)));
    if ([...by.options].some((o) => o.value === before)) by.value = before;
  }

  function lengths(entry) {
    const chosen = (s) => s.lengths.find(([way]) => way === by.value)?.[1] ?? [];
    return new Map(entry.seeds.flatMap((s) => s.forget.map((m, i) => [JSON.stringify([s.seed, m]), chosen(s)[i] ?? null])));
  }

  function show() {
    const mine = lengths(named(a)), theirs = lengths(named(b)), rows = [], tally = { more: 0, less: 0, same: 0 };
    for (const [key, x] of mine) {
      const [seed, memory] = JSON.parse(key), y = theirs.get(key) ?? null, known = x !== null && y !== null;
      if (!theirs.has(key)) continue;
      if (known) tally[x > y ? "more" : x < y ? "less" : "same"] += 1;
      const row = made("tr", ""), head = made("th", memory, { scope: "row" });
      const difference = made("td", known ? `${x > y ? "+" : x < y ? "−" : ""}${Math.abs(x - y)}` : "–");
      if (known) difference.dataset.v = x - y;
      row.append(head, made("td", seed), cell(x), cell(y), difference);
      all("td", row).slice(1, 3).forEach((td, i) => { const n = [x, y][i]; if (n !== null) td.dataset.v = n; else td.dataset.title = ""; });
      if (!known) difference.dataset.title = "";
      rows.push(row);
    }
    table.tBodies[0].replaceChildren(...rows);
    [a, b].forEach((select, i) => { heads[2 + i].querySelector("button").textContent = select.value; });
    again(table);
    place.hidden = false;
    count.textContent = rows.length
      ? `${rows.length} memories, matched tokens of ${horizon}: more comes back of ${a.value} on ${tally.more}, of ${b.value} on ${tally.less}, alike on ${tally.same}.`
      : "These two rows share no memory.";
  }

  form.addEventListener("input", (event) => { if (event.target !== by) ways(); show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  ways();
  show();
}

document.addEventListener("DOMContentLoaded", () => {
  theme();
  all("table.sortable").forEach(sortable);
  const form = document.querySelector("form.controls");
  if (form && document.getElementById("choices")) filtered(document.querySelector("table.filtered"), form);
  if (form && document.getElementById("lengths")) comparing(form);
});
