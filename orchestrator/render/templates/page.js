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

  function show(token) {
    const group = token.parentElement, place = tokensOf(group).indexOf(token);
    const text = data[Number(group.dataset.text)];
    document.querySelectorAll(".t.here").forEach((other) => other.classList.remove("here"));
    token.classList.add("here");
    panel.replaceChildren();
    element("strong", text.tokens[place], panel);
    element("p", text.values[place], panel);
    const table = element("table", undefined, panel);
    const head = element("tr", undefined, element("thead", undefined, table));
    const body = element("tbody", undefined, table);
    const columns = Object.entries(text.columns);
    columns.forEach(([name]) => { element("th", name, head).scope = "col"; });
    const most = Math.max(...columns.map(([, guesses]) => guesses[place].length));
    for (let i = 0; i < most; i++) {
      const row = element("tr", undefined, body);
      for (const [, guesses] of columns) {
        const guess = guesses[place][i];
        element("td", guess ? `${guess[0]} ${(100 * guess[1]).toFixed(1)} %` : "", row);
      }
    }
    panel.hidden = false;
  }

  document.querySelectorAll(".tokens").forEach((group) => {
    group.addEventListener("mouseover", (event) => {
      if (event.target.classList.contains("t")) show(event.target);
    });
    group.addEventListener("focusin", (event) => {
      if (event.target.classList.contains("t")) show(event.target);
    });
    group.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 };
      const all = tokensOf(group), here = all.indexOf(document.activeElement);
      if (here < 0 || !(event.key in steps || event.key === "Home" || event.key === "End" || event.key === "Escape")) return;
      event.preventDefault();
      if (event.key === "Escape") { panel.hidden = true; return; }
      const to = event.key === "Home" ? 0 : event.key === "End" ? all.length - 1 : here + steps[event.key];
      const next = all[Math.min(Math.max(to, 0), all.length - 1)];
      all[here].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  });
})();
