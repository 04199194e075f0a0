// The measured cases nearest to the shape in the form: by the sum of the sizes' ratios, in powers of two.
(() => {
  const form = document.querySelector("[data-finder]");
  if (!form) return;
  const found = document.querySelector("[data-found]");
  const cases = JSON.parse(document.querySelector("[data-cases]").textContent);
  const SIZES = ["batch", "steps", "input", "hidden"];
  const SHOWN = 6;

  // A single step and a sequence are timed for different costs, so they are far apart; the input matters least.
  const WEIGHTS = [1, 0.7, 0.4, 1];
  const distance = (mine, theirs) =>
    WEIGHTS.reduce((sum, weight, n) => sum + weight * Math.abs(Math.log2(mine[n] / theirs[n])), 0) +
    4 * ((mine[1] === 1) !== (theirs[1] === 1));

  const cell = (tag, text, number) => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (number) element.className = "n";
    return element;
  };

  const show = () => {
    const wanted = Object.fromEntries(new FormData(form));
    const mine = SIZES.map((name) => Math.max(1, Number(wanted[name]) || 1));
    const near = cases
      .filter((c) => c.cell === wanted.cell && c.mode === wanted.mode && c.dtype === wanted.dtype)
      .map((c) => [distance(mine, c.sizes) + !c.plain, c])
      .sort((a, b) => a[0] - b[0])
      .slice(0, SHOWN);
    const peers = [...new Set(near.flatMap(([, c]) => Object.keys(c.ratios)))];
    const table = document.createElement("table");
    table.className = "docutils";
    const head = table.createTHead().insertRow();
    head.append(cell("th", "measured shape"), cell("th", "fastrnn ms", true));
    peers.forEach((peer) => head.append(cell("th", `vs ${peer}`, true)));
    head.append(cell("th", "machine"));
    const body = table.createTBody();
    for (const [, c] of near) {
      const row = body.insertRow();
      row.append(cell("td", c.shape), cell("td", c.ms, true));
      peers.forEach((peer) => row.append(cell("td", c.ratios[peer]?.toFixed(2) ?? "", true)));
      row.append(cell("td", c.machine));
    }
    found.replaceChildren(near.length ? table : "No case of this kind was measured.");
  };

  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
})();
