"use strict";
(() => {
  const make = (tag, text, parent, name = "") => {
    const element = document.createElement(tag);
    element.textContent = text;
    element.className = name;
    parent.append(element);
    return element;
  };
  const kinds = {
    differ: (a, b) => a !== b, onlyA: (a, b) => a > b, onlyB: (a, b) => b > a,
    right: (a, b) => a === 1 && b === 1, wrong: (a, b) => a === 0 && b === 0, all: () => true,
  };
  for (const browser of document.querySelectorAll(".browser")) {
    const { examples, adapters, start } = JSON.parse(browser.querySelector("script").textContent);
    const part = (name) => browser.querySelector("." + name);
    const sides = ["A", "B"].map((side) => ({ adapter: part("adapter" + side), rank: part("rank" + side) }));
    let at = 0;
    const fill = (select, labels, chosen) =>
      select.replaceChildren(...labels.map((label, i) => new Option(label, i, false, i === chosen)));
    const ranksOf = (side) => adapters[side.adapter.value].ranks;
    const show = () => {
      const chosen = sides.map((side) => {
        const one = adapters[side.adapter.value], rank = one.ranks[side.rank.value];
        return { name: rank ? `${one.name} at rank ${rank}` : "base", scores: one.scores[side.rank.value], answers: one.answers[side.rank.value] };
      });
      chosen.forEach((one, side) => { part("kind").options[side + 1].text = `${one.name} is better`; });
      const found = examples.map((_, i) => i).filter((i) => kinds[part("kind").value](chosen[0].scores[i], chosen[1].scores[i]));
      at = Math.max(0, Math.min(at, found.length - 1));
      part("count").textContent = found.length ? `example ${at + 1} of ${found.length}` : "no such example: choose others above";
      part("previous").disabled = at <= 0;
      part("next").disabled = at >= found.length - 1;
      const card = part("card");
      card.replaceChildren();
      if (!found.length) return;
      const i = found[at], box = make("article", "", card, "example");
      make("h3", `Example ${examples[i].id}`, box);
      for (const [title, key] of [["Question", "question"], ["Reference", "target"]]) {
        if (examples[i][key]) { make("p", title, box, "tag"); make("pre", examples[i][key], box); }
      }
      const row = make("div", "", box, "answers");
      chosen.forEach((one, side) => {
        const answer = make("div", "", row, "answer"), head = make("p", "", answer), word = ["wrong", "right"][one.scores[i]];
        make("strong", one.name, head);
        head.append(" ");
        make("span", { wrong: "✗ wrong", right: "✓ right" }[word] || `score ${one.scores[i].toFixed(2)}`, head, word);
        make("pre", one.answers[i] || "(empty)", answer);
      });
    };
    sides.forEach((side, k) => {
      const ranks = (chosen) => fill(side.rank, ranksOf(side).map((rank) => rank ? String(rank) : "base"), chosen);
      fill(side.adapter, adapters.map((one) => one.name), start[k][0]);
      ranks(start[k][1]);
      side.adapter.addEventListener("change", () => { ranks(ranksOf(side).length - 1); at = 0; show(); });
      side.rank.addEventListener("change", () => { at = 0; show(); });
    });
    part("kind").addEventListener("change", () => { at = 0; show(); });
    part("previous").addEventListener("click", () => { at -= 1; show(); });
    part("next").addEventListener("click", () => { at += 1; show(); });
    show();
    if (!part("card").firstChild) { part("kind").value = "all"; show(); }
    browser.hidden = false;
    browser.nextElementSibling.hidden = true;
  }
  for (const table of document.querySelectorAll(".scroll")) {
    if (table.scrollWidth > table.clientWidth) table.before(make("p", "The table scrolls sideways →", table.parentElement, "tag"));
  }
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const fold of opened) fold.open = true;
  });
  addEventListener("afterprint", () => { for (const fold of opened) fold.open = false; });
})();
