"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const dark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`); };
  button.hidden = false;
  name();
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });

  const value = (cell) => cell.dataset.value !== undefined ? Number(cell.dataset.value) : cell.textContent.trim();
  const empty = (v) => v === "–" || v === "";
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    if (body.rows.length < 2) continue;
    [...table.tHead.rows[0].cells].forEach((head, at) => {
      const sorter = document.createElement("button");
      sorter.type = "button";
      sorter.textContent = head.textContent;
      head.replaceChildren(sorter);
      sorter.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const down = before ? before === "ascending" : head.classList.contains("n");
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].sort((x, y) => {
          const a = value(x.cells[at]), b = value(y.cells[at]);
          if (empty(a) || empty(b)) return empty(a) - empty(b);
          return down ? compare(b, a) : compare(a, b);
        });
        body.append(...rows);
      });
    });
  }

  const measure = () => {
    for (const box of document.querySelectorAll(".scroll")) {
      if (box.clientWidth) box.parentElement.classList.toggle("cut", box.scrollWidth > box.clientWidth + 1);
    }
  };
  measure();
  addEventListener("resize", measure);
  document.addEventListener("toggle", measure, true);

  for (const box of document.querySelectorAll(".toggles")) {
    box.hidden = false;
    box.addEventListener("change", (event) => {
      const name = new RegExp(`-curve-${event.target.dataset.curve}(-(band|label|leader|seeds|sample|ring))?$`);
      for (const part of box.closest("figure").querySelectorAll("[id*='-curve-']")) {
        if (name.test(part.id)) part.style.display = event.target.checked ? "" : "none";
      }
    });
  }

  const make = (tag, text, parent, name) => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (name) element.className = name;
    parent.append(element);
    return element;
  };
  const kinds = { gained: (a, b) => b > a, lost: (a, b) => b < a, right: (a, b) => a === b && a >= 0.5, wrong: (a, b) => a === b && a < 0.5 };
  for (const browser of document.querySelectorAll(".browser")) {
    const { documents, curves } = JSON.parse(browser.querySelector("script").textContent);
    const part = (name) => browser.querySelector("." + name);
    const [curve, from, to, kind] = ["curve", "from", "to", "kind"].map(part);
    let at = 0, matching = [];
    const fill = (select, labels, chosen) => {
      select.replaceChildren(...labels.map((label, i) => new Option(label, i, false, i === chosen)));
    };
    const show = () => {
      const { ranks, scores, answers } = curves[curve.value];
      const [a, b] = [Number(from.value), Number(to.value)];
      matching = documents.map((_, i) => i).filter((i) => kinds[kind.value](scores[a][i], scores[b][i]));
      at = Math.max(0, Math.min(at, matching.length - 1));
      part("count").textContent = matching.length ? `document ${at + 1} of ${matching.length}` : "no such document";
      part("previous").disabled = at <= 0;
      part("next").disabled = at >= matching.length - 1;
      const card = part("example");
      card.replaceChildren();
      card.hidden = !matching.length;
      if (!matching.length) return;
      const i = matching[at], { id, question, target } = documents[i];
      make("h3", `document ${id}`, card);
      for (const [title, text] of [["Question", question], ["Reference", target]]) {
        if (text) { make("span", title, card, "tag"); make("pre", text, card); }
      }
      if (!question) make("p", "This run did not keep the questions.", card);
      const row = make("div", "", card, "answers");
      for (const rank of new Set([a, b])) {
        const box = make("div", "", row, "answer"), head = make("p", "", box), score = scores[rank][i];
        make("strong", ranks[rank] ? `rank ${ranks[rank]}` : "base", head);
        head.append(" ");
        make("span", score >= 0.5 ? "✓ right" : "✗ wrong", head, score >= 0.5 ? "right" : "wrong");
        if (score !== 0 && score !== 1) head.append(` (score ${score})`);
        make("pre", answers[rank][i] || "(empty)", box);
      }
    };
    const ranks = () => {
      const labels = curves[curve.value].ranks.map((rank) => rank ? String(rank) : "base");
      fill(from, labels, labels[0] === "base" && labels.length > 2 ? 1 : 0);
      fill(to, labels, labels.length - 1);
    };
    const step = (by) => { at += by; show(); };
    fill(curve, curves.map((one) => one.label), 0);
    curve.addEventListener("change", () => { ranks(); at = 0; show(); });
    for (const select of [from, to, kind]) select.addEventListener("change", () => { at = 0; show(); });
    part("previous").addEventListener("click", () => step(-1));
    part("next").addEventListener("click", () => step(1));
    browser.addEventListener("keydown", (event) => {
      if (event.target.tagName === "SELECT") return;
      if (event.key === "ArrowRight") step(1);
      if (event.key === "ArrowLeft") step(-1);
    });
    ranks();
    show();
    browser.hidden = false;
    browser.parentElement.querySelector(".static").hidden = true;
  }

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const fold of opened) fold.open = true;
  });
  addEventListener("afterprint", () => { for (const fold of opened) fold.open = false; });
})();
