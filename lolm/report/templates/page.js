"use strict";
// What a page can do beyond being read: filter the ledger, switch arms off, show values under the pointer, say where one is.
// Nothing here is needed to read or print it: without scripts every claim, arm and section is there.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, attributes = {}, text = "") => Object.assign(document.createElement(tag), { textContent: text }, attributes);

  // ---------------------------------------------------------------- the ledger
  const form = document.querySelector("form.filters");
  const rows = all("#ledger tr[data-verdict]");
  if (form) {
    const search = form.querySelector("input[type=search]"), group = form.querySelector("select");
    const verdicts = all("input[type=checkbox]", form), output = form.querySelector("output");
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase() + " " + row.id]));
    const apply = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const chosen = new Set(verdicts.filter((box) => box.checked).map((box) => box.value));
      let shown = 0;
      for (const row of rows) {
        const fits = chosen.has(row.dataset.verdict) && (!group.value || group.value === row.closest("[data-group]").dataset.group)
          && words.every((word) => texts.get(row).includes(word));
        row.hidden = !fits;
        shown += fits;
      }
      for (const part of all("#ledger [data-group]")) part.hidden = !part.querySelector("tr[data-verdict]:not([hidden])");
      const folded = verdicts.filter((box) => !box.checked).map((box) => box.dataset.name);
      output.textContent = `${shown} of ${rows.length} claims` + (folded.length ? `; folded away: ${folded.join(", ")}` : "");
    };
    const reveal = () => {  // a link to a claim shows it, whatever is folded away
      const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (!target || !target.matches("#ledger tr")) return;
      if (target.hidden) {
        search.value = group.value = "";
        for (const box of verdicts) box.checked ||= box.value === target.dataset.verdict;
        apply();
      }
      for (const part of all("details", target)) part.open = true;
      target.scrollIntoView();
    };
    form.addEventListener("input", apply);
    form.addEventListener("reset", () => setTimeout(apply));
    form.addEventListener("submit", (event) => event.preventDefault());
    addEventListener("hashchange", reveal);
    form.hidden = false;
    apply();
    reveal();
  }

  // ---------------------------------------------------------------- arms in the figures
  const off = new Set();
  const boxes = [];
  const lineOf = (drawn) => drawn.querySelector("path[style*=stroke], use[style*=stroke], path, use");
  for (const figure of all("figure")) {
    const arms = new Map(all("svg [data-arm]", figure).map((drawn) => [drawn.dataset.arm, drawn]).reverse());
    if (arms.size < 2) continue;
    const set = make("fieldset", { className: "arms" });
    set.append(make("legend", {}, "Arms shown"));
    for (const [arm, drawn] of [...arms].reverse()) {
      const box = make("input", { type: "checkbox", checked: true, value: arm });
      const label = make("label"), swatch = make("span", { className: "swatch" }), line = lineOf(drawn);
      const style = line && getComputedStyle(line);
      swatch.style.background = !style ? "" : style.stroke !== "none" ? style.stroke : style.fill;
      label.append(box, swatch, drawn.dataset.label);
      set.append(label);
      boxes.push(box);
      box.addEventListener("change", () => {
        off[box.checked ? "delete" : "add"](arm);
        for (const other of boxes) if (other.value === arm) other.checked = box.checked;
        for (const part of all(`svg [data-arm="${CSS.escape(arm)}"]`)) part.style.display = box.checked ? "" : "none";
      });
    }
    figure.querySelector("svg").after(set);
  }

  // ---------------------------------------------------------------- values under the pointer
  const tip = make("div", { className: "tip", hidden: true });
  tip.setAttribute("role", "status");
  document.body.append(tip);
  const REACH = 14;  // units of the drawing
  const nearest = (panels, x, y) => {
    let best = null, least = REACH * REACH;
    for (const panel of panels)
      for (const [arm, label, points] of panel.lines)
        if (!off.has(arm))
          for (const point of points) {
            const far = (point[0] - x) ** 2 + (point[1] - y) ** 2;
            if (far < least) [best, least] = [{ panel, label, point }, far];
          }
    return best;
  };
  for (const svg of all("svg[data-values]")) {
    let panels = null;
    svg.addEventListener("pointermove", (event) => {
      panels ??= JSON.parse(svg.dataset.values);
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const found = nearest(panels, at.x, at.y);
      tip.hidden = !found;
      if (!found) return;
      const { panel, label, point } = found, row = panel.rows[Math.round(point[3])];
      const name = label || row || panel.title;
      tip.replaceChildren(...(name ? [make("b", {}, name)] : []), make("span", {}, `${panel.x || "x"}: ${point[2].toLocaleString("en")}`));
      if (!row) tip.append(make("span", {}, `${panel.y || "y"}: ${point[3].toLocaleString("en", { maximumSignificantDigits: 5 })}`));
      tip.style.left = `${Math.min(event.pageX + 14, scrollX + document.documentElement.clientWidth - tip.offsetWidth - 8)}px`;
      tip.style.top = `${event.pageY + 16}px`;
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  }

  // ---------------------------------------------------------------- where one is
  const links = new Map(all("nav.contents a").map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries)
      if (isIntersecting) for (const [id, link] of links) link.toggleAttribute("aria-current", id === target.id);
  }, { rootMargin: "-15% 0px -80% 0px" });
  for (const id of links.keys()) seen.observe(document.getElementById(id));
})();
