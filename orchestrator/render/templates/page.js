"use strict";
// Texts token by token: a panel with what models hold likely at the token that has the focus or the pointer.
(() => {
  const data = JSON.parse(document.getElementById("guesses").textContent);
  const panel = document.getElementById("panel");
  if (!panel) return;
  const element = (tag, text, parent) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  };
  const tokensOf = (group) => [...group.querySelectorAll(".t")];

  function hide() {
    document.querySelectorAll(".t.here").forEach((other) => other.classList.remove("here"));
    panel.hidden = true;
  }

  function show(token) {
    const group = token.parentElement, place = tokensOf(group).indexOf(token);
    const text = data.texts[Number(group.dataset.text)], values = [...text.values[place]];
    hide();
    token.classList.add("here");
    panel.replaceChildren();
    element("strong", data.words[text.tokens[place]], panel);
    element("p", text.saying.replaceAll("{}", () => values.shift()), panel);
    const table = element("table", undefined, panel);
    const head = element("tr", undefined, element("thead", undefined, table));
    const body = element("tbody", undefined, table);
    const columns = Object.entries(text.columns);
    columns.forEach(([name]) => { element("th", name, head).scope = "col"; });
    const most = Math.max(...columns.map(([, guesses]) => guesses[place].length / 2));
    for (let i = 0; i < most; i++) {
      const row = element("tr", undefined, body);
      for (const [, guesses] of columns) {
        const [word, share] = guesses[place].slice(2 * i, 2 * i + 2);
        element("td", word === undefined ? "" : `${data.words[word]} ${(share / 10).toFixed(1)} %`, row);
      }
    }
    panel.hidden = false;
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
  document.querySelectorAll(".t:not([tabindex])").forEach((token) => { token.tabIndex = -1; });
  document.querySelectorAll(".tokens").forEach((group) => {
    group.addEventListener("mouseleave", () => {
      if (!group.contains(document.activeElement)) hide();
    });
    group.addEventListener("focusout", (event) => {
      if (!group.contains(event.relatedTarget)) hide();
    });
    group.addEventListener("mouseover", (event) => {
      if (event.target.classList.contains("t")) show(event.target);
    });
    group.addEventListener("focusin", (event) => {
      if (event.target.classList.contains("t")) show(event.target);
    });
    group.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 };
      const all = tokensOf(group), here = all.indexOf(document.activeElement);
      if (here < 0 || !(event.key in steps || event.key === "Home" || event.key === "End")) return;
      event.preventDefault();
      const to = event.key === "Home" ? 0 : event.key === "End" ? all.length - 1 : here + steps[event.key];
      const next = all[Math.min(Math.max(to, 0), all.length - 1)];
      all[here].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  });
})();
