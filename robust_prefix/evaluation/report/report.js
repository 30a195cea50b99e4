(() => {
  "use strict";
  const filters = document.getElementById("filters");
  if (!filters) return;
  const shown = document.getElementById("shown");
  const buttons = [...filters.querySelectorAll("button")];
  const selects = [...filters.querySelectorAll("select")];
  const cards = [...document.querySelectorAll("article.example")];

  function update() {
    const pressed = new Set(
      buttons.filter((b) => b.getAttribute("aria-pressed") === "true").map((b) => b.dataset.outcome),
    );
    const counts = {};
    let visible = 0;
    for (const card of cards) {
      const here = selects.every((s) => s.value === "" || card.dataset[s.name] === s.value);
      const { outcome } = card.dataset;
      if (here) counts[outcome] = (counts[outcome] || 0) + 1;
      card.hidden = !(here && pressed.has(outcome));
      if (!card.hidden) visible += 1;
    }
    for (const button of buttons) {
      button.querySelector("small").textContent = counts[button.dataset.outcome] || 0;
    }
    shown.textContent = `${visible} of ${cards.length} shown`;
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!on));
      update();
    });
  }
  for (const select of selects) select.addEventListener("change", update);
  filters.hidden = false;
  update();
})();
