(() => {
  "use strict";
  const filters = document.getElementById("filters");
  const system = document.getElementById("system");
  const shown = document.getElementById("shown");
  const buttons = [...filters.querySelectorAll("button")];
  const cards = [...document.querySelectorAll("article.example")];

  function update() {
    const pressed = new Set(
      buttons.filter((b) => b.getAttribute("aria-pressed") === "true").map((b) => b.dataset.outcome),
    );
    const counts = {};
    let visible = 0;
    for (const card of cards) {
      const { outcome, system: from } = card.dataset;
      const here = system.value === "" || from === system.value;
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
  system.addEventListener("change", update);
  filters.hidden = false;
  update();
})();
